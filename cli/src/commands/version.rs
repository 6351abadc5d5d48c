//! `mesh version`: of this command, of the controller in the cluster, and of the proxies.
//!
//! It is quick whatever the cluster does, and a cluster that cannot be asked is no failure.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use tokio::time::timeout;

use super::{CONTROLLER, Context, block_on};
use crate::{
    check::install::VERSION_LABEL,
    cli::Version,
    cluster::{
        ApiError, Cluster,
        objects::{self, Meta},
    },
    failure::{Exit, Failure},
    output::plain,
};

/// Longest wait for a cluster.
const PATIENCE: Duration = Duration::from_secs(2);

/// The version of this command.
pub const CLIENT: &str = env!("CARGO_PKG_VERSION");

pub fn run(context: &mut Context, options: &Version) -> Result<Exit, Failure> {
    context.printer.data(&format!("Client version: {CLIENT}"))?;
    if options.client {
        return Ok(Exit::Ok);
    }
    let flags = context.flags.clone();
    let asked = block_on(async { Ok(timeout(PATIENCE, ask(&flags, options.proxy)).await) })?;
    let text = match asked {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => format!("Server version: unavailable ({error})"),
        Err(_) => format!("Server version: unavailable (no answer within {}s)", PATIENCE.as_secs()),
    };
    context.printer.data(&text)?;
    Ok(Exit::Ok)
}

async fn ask(flags: &crate::cluster::Flags, proxies: bool) -> Result<String, ApiError> {
    let cluster = Cluster::connect(flags).await?;
    let pods = async { if proxies { Some(cluster.list::<objects::Pod>("/api/v1/pods").await) } else { None } };
    let (controller, pods) = tokio::join!(cluster.find::<Meta>(CONTROLLER), pods);
    let server = match controller {
        Ok(Some(found)) => found.metadata.label(VERSION_LABEL).map_or_else(|| "unknown".to_owned(), plain),
        Ok(None) => format!("none (Lacewing is not installed in {})", cluster.place()),
        Err(error) => format!("unavailable ({error})"),
    };
    let mut text = format!("Server version: {server}");
    if let Some(Err(error)) = &pods {
        let _ = write!(text, "\nProxy versions: unavailable ({error})");
    }
    if let Some(Ok(pods)) = pods {
        let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
        for version in pods.iter().filter(|pod| pod.is_staying()).filter_map(objects::Pod::proxy_version) {
            *versions.entry(version).or_default() += 1;
        }
        let shown: Vec<String> =
            versions.iter().map(|(version, pods)| format!("{} ({pods} pods)", plain(version))).collect();
        text.push_str("\nProxy versions: ");
        text.push_str(&if shown.is_empty() { "none".to_owned() } else { shown.join(", ") });
    }
    Ok(text)
}
