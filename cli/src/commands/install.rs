//! `mesh install`: the chart's objects as text, for `kubectl apply -f -`. Nothing is asked of a cluster; what it lacks
//! `mesh check --pre` finds.

use serde_json::{Value, json};

use super::Context;
use crate::{
    chart::{self, ChartError, RELEASE, Rendered, values},
    cli::install::Values,
    failure::{Exit, Failure},
    manifest,
};

/// Controllers of `--ha`.
const HA_REPLICAS: u32 = 3;
/// The value by which the chart keeps the others.
const KEPT: &str = "givenValues";

pub fn run(context: &mut Context, options: &Values) -> Result<Exit, Failure> {
    home(context)?;
    let mut given = json!({});
    add(&mut given, options)?;
    let rendered = render(given, options)?;
    context.printer.data(&rendered.manifests)?;
    context.printer.note(rendered.notes.trim_end());
    Ok(Exit::Ok)
}

/// Renders the chart with `given` values, which are kept for `mesh upgrade`; the namespace is made with the rest unless
/// they say otherwise. Wrong ones are a wrong command line only where all of them were typed there.
pub fn render(given: Value, options: &Values) -> Result<Rendered, Failure> {
    let exit = if options.files.is_empty() { Exit::Usage } else { Exit::Error };
    if given.get(KEPT).is_some() {
        return Err(Failure::new(exit, format!("{KEPT}: this command writes it itself; leave it out")));
    }
    let kept = if given == json!({}) { String::new() } else { given.to_string() };
    let mut all = json!({ "createNamespace": true, KEPT: kept });
    values::merge(&mut all, given);
    chart::render(all).map_err(|why| {
        let failure = Failure::new(exit, format!("these values cannot be used:\n  {why}"));
        match why {
            ChartError::Values(_) => failure.hint("docs/install.md lists all values with their defaults"),
            ChartError::Template { .. } => Failure::error(format!("the chart cannot be rendered: {why}")),
        }
    })
}

/// Lays what was typed over the values that are `given` already: `--ha`, then files, then `--set`.
pub fn add(given: &mut Value, more: &Values) -> Result<(), Failure> {
    if more.ha {
        values::merge(given, json!({ "controller": { "replicas": HA_REPLICAS } }));
    }
    for file in &more.files {
        let read = values::read(&manifest::text(file, values::FILE_MAX)?);
        let read = read.map_err(|why| Failure::error(format!("{}: {why}", file.display())))?;
        values::merge(given, read);
    }
    let typed = more.set.iter().map(|set| ("--set", set, false));
    for (flag, set, text) in typed.chain(more.set_string.iter().map(|set| ("--set-string", set, true))) {
        values::set(given, set, text).map_err(|why| {
            Failure::new(Exit::Usage, format!("{flag} {set}: {why}"))
                .hint("write `--set controller.replicas=3`; a comma within a value is written `\\,`")
        })?;
    }
    Ok(())
}

/// Refuses a namespace that would not be heeded.
pub fn home(context: &Context) -> Result<(), Failure> {
    match context.flags.namespace.as_deref() {
        None | Some(RELEASE) => Ok(()),
        Some(other) => {
            let what = format!("-n {other}: the mesh is always in the namespace {RELEASE}");
            Err(Failure::new(Exit::Usage, what)
                .hint("leave -n out: proxies trust the controller by its name in that namespace"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::demo::state::tests::Scratch;

    #[test]
    fn files_come_before_sets_and_later_before_earlier() {
        let scratch = Scratch::new("install-files");
        let file = |name: &str, text: &str| {
            std::fs::write(scratch.join(name), text).expect("write");
            scratch.join(name)
        };
        let files =
            vec![file("a", "controller: {replicas: 2, logLevel: warn}"), file("b", "controller: {logLevel: debug}")];
        let set = vec!["trustDomain=a.example".to_owned(), "trustDomain=b.example".to_owned()];
        let set_string = vec!["proxy.annotations.skip-inbound-ports=25".to_owned()];
        let mut given = json!({});
        add(&mut given, &Values { ha: true, files, set, set_string }).expect("good");
        let expected = json!({
            "controller": { "replicas": 2, "logLevel": "debug" }, "trustDomain": "b.example",
            "proxy": { "annotations": { "skip-inbound-ports": "25" } },
        });
        assert_eq!(given, expected);
        let manifests = render(given, &Values::default()).expect("it renders").manifests;
        assert!(
            manifests.contains("kind: Namespace\n") && manifests.contains("lacewing.dev/values: \"{\\\"controller")
        );
        assert!(
            !render(json!({}), &Values::default()).expect("it renders").manifests.contains("lacewing.dev/values"),
            "nothing was given"
        );
        assert!(
            !render(json!({ "createNamespace": false }), &Values::default())
                .expect("it renders")
                .manifests
                .contains("kind: Namespace\n")
        );
    }

    #[test]
    fn what_cannot_be_used_says_where() {
        let scratch = Scratch::new("install-bad");
        let bad = scratch.join("bad.yaml");
        std::fs::write(&bad, "a: [").expect("write");
        let unknown = scratch.join("unknown.yaml");
        std::fs::write(&unknown, "controler: {}").expect("write");
        let big = scratch.join("big.yaml");
        std::fs::write(&big, vec![b'#'; usize::try_from(values::FILE_MAX).expect("small") + 1]).expect("write");
        let set = |text: &str| Values { set: vec![text.to_owned()], ..Values::default() };
        let file = |path: &Path| Values { files: vec![path.to_owned()], ..Values::default() };
        for (values, exit, part) in [
            (set("controller.replicas"), Exit::Usage, "--set controller.replicas: \"replicas\" has no value"),
            (set("controler.replicas=3"), Exit::Usage, "controler: there is no such value; did you mean controller?"),
            (set("givenValues=x"), Exit::Usage, "this command writes it itself"),
            (file(&bad), Exit::Error, "bad.yaml: "),
            (file(&unknown), Exit::Error, "controler: there is no such value"),
            (file(&big), Exit::Error, "larger than 1048576 bytes"),
            (file(Path::new("/nowhere/at/all")), Exit::Error, "cannot read /nowhere/at/all"),
        ] {
            let mut given = json!({});
            let done = add(&mut given, &values).and_then(|()| render(given, &values).map(|_| ()));
            let failure = done.expect_err(part);
            assert!(failure.exit() == exit && failure.to_string().contains(part), "{failure}");
        }
    }
}
