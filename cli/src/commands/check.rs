//! `mesh check`: is everything as it should be, and if not, which command mends it.
//!
//! The categories are gathered at once and shown in their order, each as soon as it is known. With `--wait` they are
//! looked at again until all is well. What is judged and how is in `check/`.

use std::{fmt::Write, time::Duration};

use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Context, block_on};
use crate::{
    check::{
        Category, Check, Outcome, data_plane, environment, identity, injection, install, kubernetes, network, probe,
        worst,
    },
    cli::{self, CheckFormat, FailOn},
    cluster::Cluster,
    failure::{Exit, Failure},
    output::{Printer, marks::Mark, table::SCHEMA_VERSION, typed::Typed, units},
};

/// Pause between two looks of `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    /// Nothing is an error; warnings may be there.
    success: bool,
    categories: &'a [Category],
}

pub fn run(context: &mut Context, options: &cli::Check) -> Result<Exit, Failure> {
    block_on(async {
        let cluster = Cluster::connect(&context.flags).await?;
        let deadline = options.wait.map(|wait| Instant::now() + wait);
        let live = deadline.is_some() && options.output == CheckFormat::Table && context.printer.is_terminal();
        let stream = deadline.is_none() && options.output != CheckFormat::Json;
        let (namespace, typed) = (context.flags.namespace.clone(), context.printer.typed().clone());
        let look = Look { cluster, namespace, options, now: context.now, typed };
        let mut first = live;
        let found = loop {
            let mut seen = Vec::new();
            let found = look
                .all(|category| {
                    if first {
                        seen.push(category.clone());
                        let picture = checklist(context.printer, &seen, None);
                        return context.printer.refresh(&picture);
                    }
                    if !stream {
                        return Ok(());
                    }
                    let text = text(context.printer, category, options.output);
                    // In short, a category without a problem has nothing to say.
                    if text.is_empty() { Ok(()) } else { context.printer.data(&text) }
                })
                .await?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let bad = worst(&found.categories) == Outcome::Error;
            if !bad || left.is_none_or(|left| left < PAUSE) {
                break found;
            }
            if live {
                let picture = checklist(context.printer, &found.categories, left);
                context.printer.refresh(&picture)?;
                first = false;
            }
            sleep(PAUSE).await;
        };
        context.printer.clear()?;
        if options.output == CheckFormat::Json {
            context.printer.data(&json(&found.categories))?;
        } else if !stream {
            let picture = whole(context.printer, &found.categories, options.output);
            if !picture.is_empty() {
                context.printer.data(&picture)?;
            }
        }
        if options.output == CheckFormat::Table {
            let verdict = verdict(context.printer, &found.categories);
            context.printer.data(&verdict)?;
        }
        Ok(exit(&found, options))
    })
}

fn exit(found: &Found, options: &cli::Check) -> Exit {
    match worst(&found.categories) {
        Outcome::Error if options.wait.is_some() => Exit::Timeout,
        Outcome::Error if found.absent => Exit::NotInstalled,
        Outcome::Error => Exit::CheckErrors,
        Outcome::Warning if options.fail_on == FailOn::Warning => Exit::CheckWarnings,
        _ => Exit::Ok,
    }
}

struct Found {
    categories: Vec<Category>,
    /// Nothing is installed.
    absent: bool,
}

/// What is looked at.
struct Look<'a> {
    cluster: Cluster,
    namespace: Option<String>,
    options: &'a cli::Check,
    now: u64,
    typed: Typed,
}

impl Look<'_> {
    /// Gathers all categories at once and hands each to `show` in its order.
    async fn all(&self, mut show: impl FnMut(&Category) -> Result<(), Failure>) -> Result<Found, Failure> {
        let mut found = Found { categories: Vec::new(), absent: false };
        let mut add = |name, mut checks: Vec<Check>, found: &mut Found| {
            for fix in checks.iter_mut().filter_map(|check| check.fix.as_mut()) {
                *fix = self.typed.put_into(fix);
            }
            let category = Category { name, checks };
            show(&category)?;
            found.categories.push(category);
            Ok::<_, Failure>(())
        };
        let facts = kubernetes::gather(&self.cluster, self.now).await;
        let unreachable = facts.server.is_err();
        add("kubernetes", kubernetes::judge(&facts), &mut found)?;
        // Whatever else would be asked would say the same.
        if unreachable {
            return Ok(found);
        }
        let environment = self.spawn(|cluster| async move { environment::gather(&cluster).await });
        if self.options.pre {
            add(
                "before the installation",
                kubernetes::judge_before(&kubernetes::gather_before(&self.cluster).await),
                &mut found,
            )?;
            add("environment", environment::judge(&joined(environment).await?), &mut found)?;
            return Ok(found);
        }
        let (now, namespace) = (self.now, self.namespace.clone());
        let install = self.spawn(|cluster| async move { install::gather(&cluster).await });
        let identity = self.spawn(move |cluster| async move { identity::gather(&cluster, now).await });
        let injection =
            self.spawn(move |cluster| async move { injection::gather(&cluster, namespace.as_deref()).await });
        let network = self.spawn(|cluster| async move { network::gather(&cluster).await });
        let namespace = self.namespace.clone();
        let proxies = self.options.proxy.then(|| {
            self.spawn(move |cluster| async move { data_plane::gather(&cluster, namespace.as_deref(), now).await })
        });
        let install = joined(install).await?;
        found.absent = install.is_absent();
        add("install", install::judge(&install), &mut found)?;
        if found.absent {
            return Ok(found);
        }
        add("identity", identity::judge(&joined(identity).await?), &mut found)?;
        add("injection", injection::judge(&joined(injection).await?), &mut found)?;
        if let Some(proxies) = proxies {
            let checks = match joined(proxies).await? {
                Ok(facts) => data_plane::judge(&facts),
                Err(error) => vec![Check::unknown("there are pods with a proxy", &error)],
            };
            add("data plane", checks, &mut found)?;
        }
        if self.options.probe {
            let checks = match probe::gather(&self.cluster, self.namespace.as_deref()).await {
                Ok(facts) => probe::judge(&facts),
                Err(error) => vec![Check::unknown("a request goes through two proxies", &error)],
            };
            add("probe", checks, &mut found)?;
        }
        add("network", network::judge(&joined(network).await?), &mut found)?;
        add("environment", environment::judge(&joined(environment).await?), &mut found)?;
        Ok(found)
    }

    fn spawn<F: Future<Output: Send + 'static> + Send + 'static>(
        &self,
        gather: impl FnOnce(Cluster) -> F,
    ) -> JoinHandle<F::Output> {
        tokio::spawn(gather(self.cluster.clone()))
    }
}

async fn joined<T>(gathering: JoinHandle<T>) -> Result<T, Failure> {
    gathering.await.map_err(|error| Failure::error(format!("a check broke: {error}")))
}

/// One category: all of it, or only what is wrong.
fn text(printer: &Printer, category: &Category, format: CheckFormat) -> String {
    let mut text = String::new();
    if format == CheckFormat::Table {
        text = format!("{}\n{}\n", category.name, "-".repeat(category.name.len()));
    }
    let shown = category.checks.iter().filter(|check| format == CheckFormat::Table || check.result != Outcome::Success);
    for check in shown {
        let mark = match check.result {
            Outcome::Success => Mark::Good,
            Outcome::Warning => Mark::Mild,
            Outcome::Error => Mark::Bad,
        };
        let place = if format == CheckFormat::Short { format!("{}: ", category.name) } else { String::new() };
        let _ = writeln!(text, "{} {place}{}", printer.mark(mark), check.description);
        let rest = [("", &check.message), ("fix: ", &check.fix)];
        for (label, words) in rest.into_iter().filter_map(|(label, words)| Some((label, words.as_ref()?))) {
            let _ = writeln!(text, "    {label}{words}");
        }
    }
    if format == CheckFormat::Table {
        text.push('\n');
    }
    text
}

/// What is shown while it waits: a line for each category where all is well, and what is wrong in the others.
fn checklist(printer: &Printer, categories: &[Category], left: Option<Duration>) -> String {
    // First, since a small terminal shows the beginning only.
    let mut picture = left.map_or_else(
        || "looking ...\n\n".to_owned(),
        |left| {
            let left = units::span(Duration::from_secs(left.as_secs()));
            format!("{}; looking again, {left} left\n\n", verdict(printer, categories))
        },
    );
    for category in categories {
        let wrong = text(printer, category, CheckFormat::Short);
        if wrong.is_empty() {
            let _ = writeln!(picture, "{} {} ({})", printer.mark(Mark::Good), category.name, category.checks.len());
        }
        picture.push_str(&wrong);
    }
    picture
}

fn whole(printer: &Printer, categories: &[Category], format: CheckFormat) -> String {
    categories.iter().map(|category| text(printer, category, format)).collect()
}

fn verdict(printer: &Printer, categories: &[Category]) -> String {
    let count = |result| {
        let all = categories.iter().flat_map(|category| &category.checks);
        all.filter(|check| check.result == result).count()
    };
    let many = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let (errors, warnings) = (many(count(Outcome::Error), "error"), many(count(Outcome::Warning), "warning"));
    match worst(categories) {
        Outcome::Success => format!("{} all is well", printer.mark(Mark::Good)),
        Outcome::Warning => format!("{} {warnings}, no error", printer.mark(Mark::Mild)),
        Outcome::Error => format!("{} {errors}, {warnings}", printer.mark(Mark::Bad)),
    }
}

fn json(categories: &[Category]) -> String {
    let success = worst(categories) != Outcome::Error;
    let document = Document { schema_version: SCHEMA_VERSION, success, categories };
    // Plain structs of texts: there is nothing in them that JSON cannot hold.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

#[cfg(test)]
mod tests;
