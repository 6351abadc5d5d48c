//! `mesh install`: the chart's objects as text, for `kubectl apply -f -`. Nothing is asked of a cluster; what it lacks
//! `mesh check --pre` finds.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::{Value, json};

use super::Context;
use crate::{
    chart::{self, values},
    cli::install::{Install, Values},
    failure::{Exit, Failure},
};

/// Controllers of `--ha`.
const HA_REPLICAS: u32 = 3;

pub fn run(context: &mut Context, options: &Install) -> Result<Exit, Failure> {
    let mut given = json!({});
    if options.ha {
        given = json!({ "controller": { "replicas": HA_REPLICAS } });
    }
    add(&mut given, &options.values)?;
    print(context, given)?;
    Ok(Exit::Ok)
}

/// Prints the objects that `given` values make, and what to do next.
pub fn print(context: &mut Context, given: Value) -> Result<(), Failure> {
    let rendered = chart::render(recorded(given)).map_err(|why| {
        Failure::new(Exit::Usage, format!("these values cannot be used:\n  {why}"))
            .hint("docs/install.md lists all values with their defaults")
    })?;
    context.printer.data(&rendered.manifests)?;
    context.printer.note(rendered.notes.trim_end());
    Ok(())
}

/// What the command itself gives to the chart: the namespace is made in the same pass, and the values are kept for
/// `mesh upgrade`.
fn recorded(mut given: Value) -> Value {
    let kept = if given == json!({}) { String::new() } else { given.to_string() };
    let mut own = json!({ "createNamespace": true, "givenValues": kept });
    std::mem::swap(&mut own, &mut given);
    values::merge(&mut given, own);
    given
}

/// Lays files and `--set` over the values that are `given` already.
pub fn add(given: &mut Value, more: &Values) -> Result<(), Failure> {
    for file in &more.files {
        let read = values::read(&text(file)?);
        let read = read.map_err(|why| Failure::new(Exit::Usage, format!("{}: {why}", file.display())))?;
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

fn text(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let from: io::Result<Box<dyn Read>> = if file == Path::new("-") {
        Ok(Box::new(io::stdin()))
    } else {
        File::open(file).map(|file| Box::new(file) as _)
    };
    let read = from.and_then(|from| from.take(values::FILE_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| Failure::error(format!("cannot read {}: {error}", file.display())))?;
    if text.len() as u64 > values::FILE_MAX {
        return Err(Failure::error(format!("{} is larger than {} bytes", file.display(), values::FILE_MAX)));
    }
    Ok(text)
}
