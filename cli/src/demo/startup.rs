//! Owns the order in which the demo comes up: addresses free? manifests, controller and apps, trust bundle and tokens,
//! proxies, ready, traffic.
//!
//! Each wait has a limit and an error that quotes whoever was waited for. What runs afterwards is `crew.rs`' business.

use std::{
    fs, io,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, task::JoinSet, time::sleep};

use crate::{
    demo::{
        cast::{App, Pod, Subnet},
        crew::{Crew, Spec},
        faults, manifests,
        state::{Description, Held, Layout},
    },
    failure::{Exit, Failure},
    live,
    output::Printer,
};

/// How often a condition is looked at while the demo starts.
const POLL: Duration = Duration::from_millis(20);
/// The controller must have made its trust root and the tokens within this.
const CONTROLLER_TIMEOUT: Duration = Duration::from_secs(5);
/// All proxies must be ready within this.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Variables of the user's environment that the children get.
const INHERITED: [&str; 2] = ["RUST_BACKTRACE", "LACEWING_LOG"];

/// What `mesh demo` was asked for.
#[derive(Clone, Copy)]
pub struct Options {
    pub subnet: Subnet,
    pub rps: u32,
}

/// Brings everything up; afterwards all proxies are ready and traffic flows.
pub async fn start(held: &Held, options: Options, started: u64, printer: &mut Printer) -> Result<Crew, Failure> {
    let layout = held.layout();
    let pods = options.subnet.pods();
    check_addresses(options.subnet, &pods)?;
    manifests::write(&layout.manifests(), &pods)
        .map_err(|error| Failure::file("write", &layout.manifests(), &error))?;
    let exe = own_executable()?;
    let mut crew = Crew::new(exe, layout.clone(), pods.clone());
    crew.start(controller(layout, options.subnet))?;
    // Traffic comes last: requests sent before there is a mesh would only show as failures.
    for pod in pods.iter().filter(|pod| !is_traffic(pod)) {
        crew.start(app(layout, pod, options.rps)?)?;
    }
    let bundle = trust_bundle(&mut crew, layout, &pods, printer).await?;
    for pod in &pods {
        crew.start(proxy(layout, pod, options.subnet, &bundle))?;
    }
    held.describe(&Description {
        pid: std::process::id(),
        started,
        controller_admin: options.subnet.controller_admin(),
        pods: pods.clone(),
    })?;
    wait_until_ready(&mut crew, layout, &pods, printer).await?;
    for pod in pods.iter().filter(|pod| is_traffic(pod)) {
        crew.start(app(layout, pod, options.rps)?)?;
    }
    Ok(crew)
}

/// Whether `pod`'s proxy says that it is ready, and its app takes connections; if not, why.
pub async fn ready(pod: &Pod) -> Result<(), String> {
    live::ready(pod.admin).await.map_err(|why| format!("its proxy: {why}"))?;
    match pod.app() {
        Some(app) => TcpStream::connect(app).await.map(drop).map_err(|error| format!("its app at {app}: {error}")),
        None => Ok(()),
    }
}

/// This very file: every process of the demo runs it.
fn own_executable() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::error(format!("cannot find the executable of this command: {error}")))
}

fn is_traffic(pod: &Pod) -> bool {
    pod.workload == App::Traffic.name()
}

/// Looks for addresses in use before anything is started: then the error names them all, and what they are for.
fn check_addresses(subnet: Subnet, pods: &[Pod]) -> Result<(), Failure> {
    let controller = [(subnet.controller_grpc(), "its gRPC port"), (subnet.controller_admin(), "its admin port")];
    let mut wanted: Vec<_> = controller.map(|(address, what)| (address, "the controller".to_owned(), what)).into();
    for pod in pods {
        wanted.extend(pod.listens().into_iter().map(|(address, what)| (address, format!("pod {}", pod.name), what)));
    }
    for (address, who, what) in wanted {
        let Err(error) = TcpListener::bind(address) else { continue };
        let failure = Failure::error(format!("cannot listen on {address}, which {who} needs as {what}: {error}"));
        return Err(match error.kind() {
            io::ErrorKind::AddrInUse => failure.hint(format!(
                "find who listens there with `ss -ltnp 'sport = :{}'`, or use other addresses: \
                 `mesh demo --subnet 127.1.5`",
                address.port()
            )),
            io::ErrorKind::AddrNotAvailable => failure.hint(format!(
                "this system does not give all of 127.0.0.0/8 to loopback; add the address, on macOS with \
                 `sudo ifconfig lo0 alias {}`",
                address.ip()
            )),
            _ => failure,
        });
    }
    Ok(())
}

fn inherited() -> Vec<(&'static str, String)> {
    INHERITED.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect()
}

fn controller(layout: &Layout, subnet: Subnet) -> Spec {
    let mut env = inherited();
    env.extend([
        ("LACEWING_MANIFESTS", layout.manifests().display().to_string()),
        ("LACEWING_STATE_DIR", layout.controller().display().to_string()),
        ("LACEWING_TOKEN_DIR", layout.tokens().display().to_string()),
        ("LACEWING_GRPC_ADDR", subnet.controller_grpc().to_string()),
        ("LACEWING_ADMIN_ADDR", subnet.controller_admin().to_string()),
        ("LACEWING_EXIT_WITH_PARENT", "1".to_owned()),
    ]);
    Spec { name: "controller".to_owned(), pod: None, args: vec!["controller".to_owned()], env }
}

fn proxy(layout: &Layout, pod: &Pod, subnet: Subnet, bundle: &str) -> Spec {
    let mut env = inherited();
    env.extend([
        ("LACEWING_POD_NAME", pod.name.clone()),
        ("LACEWING_POD_NAMESPACE", pod.namespace.clone()),
        ("LACEWING_POD_IPS", pod.ip.to_string()),
        ("LACEWING_TRUST_BUNDLE", bundle.to_owned()),
        ("LACEWING_TOKEN_FILE", layout.token(pod).display().to_string()),
        ("LACEWING_CONTROLLER_ADDR", subnet.controller_grpc().to_string()),
        ("LACEWING_OUTBOUND_ADDR", pod.outbound().to_string()),
        ("LACEWING_INBOUND_ADDR", pod.inbound().to_string()),
        ("LACEWING_ADMIN_ADDR", pod.admin.to_string()),
        ("LACEWING_PRIVATE_ADMIN_ADDR", pod.private_admin.to_string()),
        ("LACEWING_EXIT_WITH_PARENT", "1".to_owned()),
    ]);
    if let Some(entry) = pod.echo_entry() {
        env.push(("LACEWING_OUTBOUND_MAP", format!("{entry}={}.{}:7000", App::Echo.name(), pod.namespace)));
    }
    Spec { name: format!("{}-proxy", pod.name), pod: Some(pod.name.clone()), args: vec!["proxy".to_owned()], env }
}

fn app(layout: &Layout, pod: &Pod, rps: u32) -> Result<Spec, Failure> {
    let workload = pod.of().ok_or_else(|| Failure::error(format!("pod {} is of no known workload", pod.name)))?;
    let fault = faults::path(&layout.faults(), &pod.name);
    let mut args = vec!["app".to_owned(), workload.name().to_owned()];
    let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    option("proxy", pod.outbound().to_string());
    option("fault", fault.display().to_string());
    option("rps", rps.to_string());
    if let Some(listen) = pod.app() {
        option("listen", listen.to_string());
    }
    if let Some(entry) = pod.echo_entry() {
        option("echo", entry.to_string());
    }
    Ok(Spec { name: format!("{}-app", pod.name), pod: Some(pod.name.clone()), args, env: inherited() })
}

/// Waits for what the proxies start with: the trust bundle and their tokens. Gives the bundle.
async fn trust_bundle(
    crew: &mut Crew,
    layout: &Layout,
    pods: &[Pod],
    printer: &mut Printer,
) -> Result<String, Failure> {
    let started = Instant::now();
    loop {
        let missing = pods.iter().map(|pod| layout.token(pod)).find(|token| !token.exists());
        let missing = match (fs::read_to_string(layout.trust_bundle()), missing) {
            (Ok(bundle), None) if !bundle.is_empty() => return Ok(bundle),
            (Ok(bundle), Some(token)) if !bundle.is_empty() => token,
            _ => layout.trust_bundle(),
        };
        if started.elapsed() > CONTROLLER_TIMEOUT {
            let what = format!(
                "the controller was not up after {}s: {} is not there; it said last: {}",
                CONTROLLER_TIMEOUT.as_secs(),
                missing.display(),
                crew.last_words("controller")
            );
            return Err(timed_out(layout, what));
        }
        pause(crew, printer).await;
    }
}

async fn wait_until_ready(
    crew: &mut Crew,
    layout: &Layout,
    pods: &[Pod],
    printer: &mut Printer,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut waiting: Vec<Pod> = pods.to_vec();
    loop {
        let mut asked = JoinSet::new();
        for pod in waiting.drain(..) {
            asked.spawn(async move { (ready(&pod).await, pod) });
        }
        let not_ready = asked.join_all().await.into_iter().filter_map(|(answer, pod)| Some((answer.err()?, pod)));
        let not_ready: Vec<(String, Pod)> = not_ready.collect();
        let Some((why, pod)) = not_ready.first() else { return Ok(()) };
        if started.elapsed() > READY_TIMEOUT {
            let what = format!(
                "{} of {} pods were not ready after {}s; {}: {why}; its proxy said last: {}",
                not_ready.len(),
                pods.len(),
                READY_TIMEOUT.as_secs(),
                pod.name,
                crew.last_words(&format!("{}-proxy", pod.name))
            );
            return Err(timed_out(layout, what));
        }
        waiting.extend(not_ready.into_iter().map(|(_, pod)| pod));
        pause(crew, printer).await;
    }
}

fn timed_out(layout: &Layout, what: String) -> Failure {
    let logs = layout.log("controller").with_file_name("");
    Failure::new(Exit::Timeout, what).hint(format!(
        "the logs are kept in {}; for more in them, run again with LACEWING_LOG=debug in the environment",
        logs.display()
    ))
}

async fn pause(crew: &mut Crew, printer: &mut Printer) {
    for line in crew.tick(Instant::now()) {
        printer.note(&line);
    }
    sleep(POLL).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_named_with_its_purpose() {
        let subnet: Subnet = "127.1.201".parse().expect("a subnet");
        let taken = TcpListener::bind("127.1.201.15:4143").expect("free");
        let error = check_addresses(subnet, &subnet.pods()).expect_err("in use").to_string();
        assert!(error.contains("127.1.201.15:4143, which pod voting-2 needs as its proxy's inbound port"), "{error}");
        assert!(error.contains("ss -ltnp 'sport = :4143'"), "{error}");
        drop(taken);
        assert!(check_addresses(subnet, &subnet.pods()).is_ok());
    }

    #[test]
    fn only_the_load_generator_enters_echo() {
        let layout = Layout::new(Some("/x".into()), |_| None);
        let subnet: Subnet = "127.1.0".parse().expect("a subnet");
        for pod in subnet.pods() {
            let spec = proxy(&layout, &pod, subnet, "PEM");
            let map = spec.env.iter().find(|(name, _)| *name == "LACEWING_OUTBOUND_MAP");
            assert_eq!(map.is_some(), pod.workload == "traffic", "{}", pod.name);
            let args = app(&layout, &pod, 50).expect("known").args;
            assert_eq!(args.contains(&"--echo".to_owned()), pod.workload == "traffic", "{}", pod.name);
            assert_eq!(args.contains(&"--listen".to_owned()), pod.workload != "traffic", "{}", pod.name);
        }
    }
}
