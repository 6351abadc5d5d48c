//! `mesh demo fault` and `mesh demo heal`: turn the switches.
//!
//! They only write files; the demo and its apps follow within a tenth of a second.

use super::Context;
use crate::{
    cli::FaultCommand,
    demo::{
        cast::{App, Pod},
        faults::{self, Fault},
    },
    failure::{Exit, Failure},
};

pub fn set(context: &mut Context, command: FaultCommand) -> Result<Exit, Failure> {
    let (name, fault) = match command {
        FaultCommand::Slow { pod, by } => (pod, Fault::Slow(by)),
        FaultCommand::Fail { pod } => (pod, Fault::Fail),
        FaultCommand::Kill { pod } => (pod, Fault::Kill),
    };
    let pods = context.layout.running()?.pods;
    let pod = find(&pods, &name)?;
    if pod.workload == App::Traffic.name() && fault != Fault::Kill {
        return Err(Failure::error(format!("{name} only sends requests: it can be neither slow nor fail"))
            .hint("choose a pod that serves, such as voting-2, or `mesh demo fault kill traffic-1`"));
    }
    let file = faults::path(&context.layout.faults(), &pod.name);
    faults::set(&context.layout.faults(), &pod.name, fault).map_err(|e| Failure::file("write", &file, &e))?;
    let what = match fault {
        Fault::Slow(by) => format!("answers {}ms later", by.as_millis()),
        Fault::Fail => "answers every request with an error".to_owned(),
        Fault::Kill => "is killed, its proxy too".to_owned(),
    };
    context.printer.data(&format!("{name} {what}; end it with `mesh demo heal {name}`"))?;
    Ok(Exit::Ok)
}

pub fn heal(context: &mut Context, pod: Option<&str>) -> Result<Exit, Failure> {
    let pods = context.layout.running()?.pods;
    let chosen = match pod {
        Some(name) => vec![find(&pods, name)?],
        None => pods.iter().collect(),
    };
    let mut healed = Vec::new();
    for pod in chosen {
        let file = faults::path(&context.layout.faults(), &pod.name);
        if faults::clear(&context.layout.faults(), &pod.name).map_err(|e| Failure::file("remove", &file, &e))? {
            healed.push(pod.name.as_str());
        }
    }
    let text = match (healed.as_slice(), pod) {
        ([], Some(name)) => format!("{name} had no fault"),
        ([], None) => "no pod had a fault".to_owned(),
        (names, _) => format!("healed: {}", names.join(", ")),
    };
    context.printer.data(&text)?;
    Ok(Exit::Ok)
}

/// The pod of that name, or an error that lists those there are.
pub fn find<'a>(pods: &'a [Pod], name: &str) -> Result<&'a Pod, Failure> {
    pods.iter().find(|pod| pod.name == name).ok_or_else(|| {
        let names = pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(", ");
        Failure::error(format!("the demo has no pod {name:?}")).hint(format!("its pods are: {names}"))
    })
}
