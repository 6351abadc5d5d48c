//! Owns which mesh a live command is about: the demo of this machine, or a cluster; and the list of its pods.
//!
//! Flags that name a cluster or a demo's directory win; then a demo that runs; then the kubeconfig's current context.
//! Where both are there, standard error says which one is shown. Asking the pods is `live.rs`' business.

mod empty;

use crate::{
    cluster::{
        ApiError, Cause, Cluster, Forwards,
        objects::{self, Meta},
        query_value,
    },
    commands::Context,
    demo::{cast, state::Layout},
    failure::{Exit, Failure},
    live::{Pod, Way},
};

pub use empty::why_empty;

/// The proxy's private admin port in a cluster.
const PRIVATE_ADMIN_PORT: u16 = 4192;
/// Most pods that are asked for one picture: beyond it a Prometheus is the better place to ask.
pub const PODS_MAX: usize = 500;
/// Selects pods that have a proxy.
const MESHED: &str = "labelSelector=lacewing.dev%2Fmeshed%3Dtrue";

/// The mesh that a command is about.
pub enum Mesh {
    Demo(Layout),
    Cluster { cluster: Cluster, ways: Forwards },
}

/// Who is in the mesh, as far as a picture needs it.
#[derive(Default)]
pub struct Roll {
    /// With and without proxy.
    pub pods: Vec<Pod>,
    /// Namespace and name of Services, shown even where nobody calls them.
    pub services: Vec<(String, String)>,
    /// What a reader must know about what is missing.
    pub notes: Vec<String>,
}

impl Roll {
    pub fn of_demo(pods: &[cast::Pod]) -> Self {
        // In the demo a workload that listens has a Service of its name.
        let listening = pods.iter().filter(|pod| pod.app_port.is_some());
        let mut services: Vec<_> = listening.map(|pod| (pod.namespace.clone(), pod.workload.clone())).collect();
        services.dedup();
        Self { pods: pods.iter().map(Pod::from).collect(), services, notes: Vec::new() }
    }

    /// Takes the pods of a cluster that take part.
    fn take(&mut self, cluster: &Cluster, ways: &Forwards, pods: Vec<objects::Pod>) {
        let staying = pods.into_iter().filter(objects::Pod::is_staying);
        self.pods = staying.map(|pod| of_cluster(cluster, ways, &pod)).collect();
        leave_out(self);
    }
}

impl Mesh {
    /// Chooses, and says so where there was a choice.
    ///
    /// # Errors
    /// Flags for both, no demo and no cluster, or a kubeconfig that cannot be used.
    pub async fn choose(context: &mut Context<'_>) -> Result<Self, Failure> {
        let cluster_asked = context.flags.choose_cluster();
        if cluster_asked && context.dir_asked {
            return Err(Failure::new(Exit::Usage, "--dir is about a demo, the cluster options are about a cluster")
                .hint("give one or the other"));
        }
        if !cluster_asked {
            let current = (!context.dir_asked).then(|| context.flags.current()).flatten();
            match (context.layout.running(), current) {
                (Ok(_), Some(other)) => {
                    context
                        .printer
                        .note(&format!("note: this is the demo; for the cluster add `--context {}`", other.name()));
                    return Ok(Self::Demo(context.layout.clone()));
                }
                (Ok(_), None) => return Ok(Self::Demo(context.layout.clone())),
                (Err(none), Some(_)) if none.exit() == Exit::NotInstalled => {}
                (Err(none), None) if none.exit() == Exit::NotInstalled && !context.dir_asked => {
                    return Err(none.hint("start one with `mesh demo` in another terminal, or name a cluster with `--context NAME` or `--kubeconfig FILE`"));
                }
                // Somebody else's directory at the demo's place must not keep anybody from a cluster.
                (Err(failure), Some(_)) => context.printer.failure(&failure),
                (Err(failure), None) => return Err(failure),
            }
        }
        Ok(Self::of(Cluster::connect(&context.flags).await?))
    }

    pub fn of(cluster: Cluster) -> Self {
        Self::Cluster { cluster, ways: Forwards::default() }
    }

    /// A pod of the cluster as the live commands see it; none in a demo.
    pub fn pod(&self, pod: &objects::Pod) -> Option<Pod> {
        match self {
            Self::Demo(_) => None,
            Self::Cluster { cluster, ways } => Some(of_cluster(cluster, ways, pod)),
        }
    }

    /// What is shown where no namespace is asked for.
    pub fn namespace(&self, context: &Context) -> String {
        match self {
            Self::Demo(_) => context.flags.namespace.clone().unwrap_or_else(|| cast::NAMESPACE.to_owned()),
            Self::Cluster { cluster, .. } => cluster.namespace().to_owned(),
        }
    }

    /// What to do where no proxy answers.
    pub fn next_when_silent(&self) -> &'static str {
        match self {
            Self::Demo(_) => "see which processes run with `mesh demo status`",
            Self::Cluster { .. } => "see what is wrong with `mesh check --proxy`",
        }
    }

    /// The pods of `namespace`, or of all; with `clients`, also whoever may call its Services from elsewhere.
    ///
    /// # Errors
    /// No demo runs any more, or the pods may not be listed.
    pub async fn roll(&self, namespace: Option<&str>, clients: bool) -> Result<Roll, Failure> {
        match self {
            Self::Demo(layout) => Ok(Roll::of_demo(&layout.running()?.pods)),
            Self::Cluster { cluster, ways } => Ok(roll(cluster, ways, namespace, clients).await?),
        }
    }

    /// The pods with these labels, of `namespace` or of all.
    ///
    /// # Errors
    /// It is a demo, whose pods have no labels; or the pods may not be listed, or the labels not be read.
    pub async fn labelled(&self, namespace: Option<&str>, labels: &str) -> Result<Roll, Failure> {
        match self {
            Self::Demo(_) => Err(Failure::new(Exit::Usage, "-l: the pods of a demo have no labels")
                .hint("leave it out, or name a cluster with `--context NAME`")),
            Self::Cluster { cluster, ways } => {
                let path = format!("/api/v1{}/pods?labelSelector={}", scope(namespace), query_value(labels));
                let mut roll = Roll::default();
                roll.take(cluster, ways, cluster.list(&path).await?);
                Ok(roll)
            }
        }
    }
}

async fn roll(cluster: &Cluster, ways: &Forwards, namespace: Option<&str>, clients: bool) -> Result<Roll, ApiError> {
    let scope = scope(namespace);
    let elsewhere = async {
        match namespace {
            Some(_) if clients => cluster.list::<objects::Pod>(&format!("/api/v1/pods?{MESHED}")).await.map(Some),
            _ => Ok(None),
        }
    };
    let services = async {
        if clients { cluster.list::<Meta>(&format!("/api/v1{scope}/services")).await } else { Ok(Vec::new()) }
    };
    let (pods_path, mut roll) = (format!("/api/v1{scope}/pods"), Roll::default());
    let (pods, elsewhere, services) = tokio::join!(cluster.list::<objects::Pod>(&pods_path), elsewhere, services);
    let mut pods = pods?;
    match elsewhere {
        Ok(others) => pods.extend(others.into_iter().flatten().filter(|pod| Some(pod.namespace()) != namespace)),
        Err(error) if error.cause == Cause::Forbidden => {
            roll.notes.push(format!("note: calls from other namespaces are not counted, since {error}"));
        }
        Err(error) => return Err(error),
    }
    match services {
        Ok(services) => {
            let name = |service: Meta| (service.metadata.namespace.unwrap_or_default(), service.metadata.name);
            roll.services = services.into_iter().map(name).collect();
        }
        Err(error) if error.cause == Cause::Forbidden => {
            roll.notes.push(format!("note: Services that nobody calls are not shown, since {error}"));
        }
        Err(error) => return Err(error),
    }
    roll.take(cluster, ways, pods);
    Ok(roll)
}

fn scope(namespace: Option<&str>) -> String {
    namespace.map_or_else(String::new, |name| format!("/namespaces/{name}"))
}

/// Takes the proxies beyond [`PODS_MAX`] from the roll, and says so.
fn leave_out(roll: &mut Roll) {
    let meshed = roll.pods.iter().filter(|pod| pod.proxy.is_some()).count();
    roll.pods.iter_mut().filter(|pod| pod.proxy.is_some()).skip(PODS_MAX).for_each(|pod| pod.proxy = None);
    if meshed > PODS_MAX {
        roll.notes
            .push(format!("warning: only {PODS_MAX} of {meshed} proxies are asked; ask for less with `-n NAMESPACE`"));
    }
}

fn of_cluster(cluster: &Cluster, ways: &Forwards, pod: &objects::Pod) -> Pod {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let way = || Way::Forward(ways.to(cluster, (pod.namespace(), pod.name(), uid), PRIVATE_ADMIN_PORT));
    Pod {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        owner: pod.owner(),
        has_proxy: Some(pod.is_meshed()),
        // A proxy that does not run yet, or no more, has nothing to tell.
        proxy: (pod.is_meshed() && pod.proxy_runs()).then(way),
    }
}

#[cfg(test)]
mod tests;
