//! `mesh demo fault` and `mesh demo heal`: turn the switches.
//!
//! They only write files; the demo and its apps follow within a tenth of a second. The controller has a switch, too, but
//! the only thing that can be wrong with it is that it is gone.

use super::Context;
use crate::{
    cli::FaultCommand,
    demo::{
        cast::{App, Pod},
        faults::{self, CONTROLLER, Fault},
    },
    failure::{Exit, Failure},
    output::units,
};

pub fn set(context: &mut Context, command: FaultCommand) -> Result<Exit, Failure> {
    let (name, fault) = match command {
        FaultCommand::Slow { pod, by } => (pod, Fault::Slow(by)),
        FaultCommand::Fail { pod } => (pod, Fault::Fail),
        FaultCommand::Kill { pod } => (pod, Fault::Kill),
    };
    check(&context.layout.running()?.pods, &name, fault)?;
    let file = faults::path(&context.layout.faults(), &name);
    faults::set(&context.layout.faults(), &name, fault).map_err(|e| Failure::file("write", &file, &e))?;
    let what = match fault {
        Fault::Kill if name == CONTROLLER => "is killed: see how the mesh runs on without it".to_owned(),
        Fault::Slow(by) => format!("answers {} later", units::exact(by)),
        Fault::Fail => "answers every request with an error".to_owned(),
        Fault::Kill => "is killed, its proxy too".to_owned(),
    };
    let said = format!("{name} {what}; end it with `mesh demo heal {name}`");
    let said = context.printer.typed().put_into(&said);
    context.printer.data(&said)?;
    Ok(Exit::Ok)
}

/// Whether there is a pod of that name, or the controller, and it can have this fault.
fn check(pods: &[Pod], name: &str, fault: Fault) -> Result<(), Failure> {
    let why = if name == CONTROLLER {
        "serves no requests of apps"
    } else if find(pods, name)?.workload == App::Traffic.name() {
        "only sends requests"
    } else {
        return Ok(());
    };
    if fault == Fault::Kill {
        return Ok(());
    }
    Err(Failure::error(format!("{name} {why}: it can be neither slow nor fail"))
        .hint(format!("choose a pod that serves, such as voting-2, or `mesh demo fault kill {name}`")))
}

pub fn heal(context: &mut Context, pod: Option<&str>) -> Result<Exit, Failure> {
    let pods = context.layout.running()?.pods;
    let chosen = match pod {
        Some(CONTROLLER) => vec![CONTROLLER],
        Some(name) => vec![find(&pods, name)?.name.as_str()],
        None => pods.iter().map(|pod| pod.name.as_str()).chain([CONTROLLER]).collect(),
    };
    let mut healed = Vec::new();
    for name in chosen {
        let file = faults::path(&context.layout.faults(), name);
        if faults::clear(&context.layout.faults(), name).map_err(|e| Failure::file("remove", &file, &e))? {
            healed.push(name);
        }
    }
    let text = match (healed.as_slice(), pod) {
        ([], Some(name)) => format!("{name} had no fault"),
        ([], None) => "nothing had a fault".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        demo::{
            cast::Subnet,
            state::{Description, Held, Layout, tests::Scratch},
        },
        output::Printer,
    };

    #[test]
    fn only_what_serves_can_be_slow_or_fail() {
        let pods = "127.1.9".parse::<Subnet>().expect("a subnet").pods();
        let slow = Fault::Slow(std::time::Duration::from_secs(1));
        for (name, fault, refused) in [
            ("voting-2", slow, None),
            ("controller", Fault::Kill, None),
            ("traffic-1", Fault::Kill, None),
            ("controller", slow, Some("or `mesh demo fault kill controller`")),
            ("controller", Fault::Fail, Some("controller serves no requests of apps: it can be neither slow nor fail")),
            ("traffic-1", Fault::Fail, Some("traffic-1 only sends requests")),
            ("nobody", Fault::Kill, Some("the demo has no pod \"nobody\"")),
        ] {
            let answer = check(&pods, name, fault).err().map(|failure| failure.to_string());
            match refused {
                None => assert_eq!(answer, None, "{name}"),
                Some(part) => assert!(answer.as_ref().is_some_and(|text| text.contains(part)), "{name}: {answer:?}"),
            }
        }
    }

    #[test]
    fn the_controllers_switch_is_turned_and_turned_back() {
        let scratch = Scratch::new("fault-controller");
        let layout = Layout::new(Some(scratch.join("demo")), |_| None);
        let held = Held::take(layout.clone(), 1).expect("free");
        let subnet: Subnet = "127.1.9".parse().expect("a subnet");
        let (controller_admin, pods) = (subnet.controller_admin(), subnet.pods());
        held.describe(&Description { pid: 1, started: 1, controller_admin, pods }).expect("describe");
        let mut printer = Printer::to(Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut context = Context {
            layout: layout.clone(),
            dir_asked: true,
            flags: crate::cluster::Flags::default(),
            now: 1,
            printer: &mut printer,
        };
        let file = faults::path(&layout.faults(), CONTROLLER);
        for healed in [Some(CONTROLLER), None] {
            set(&mut context, FaultCommand::Kill { pod: CONTROLLER.to_owned() }).expect("set");
            assert_eq!(faults::read(&file), Some(Fault::Kill));
            heal(&mut context, healed).expect("heal");
            assert_eq!(faults::read(&file), None);
        }
    }
}
