//! Owns the checks of the API server: it answers, is new enough, its clock and ours agree; and, before an
//! installation, that the user may make what an installation makes and that nothing of it is there yet.

use serde_json::json;

use super::Check;
use crate::cluster::{
    ApiError, Cluster, Server,
    objects::{AccessReview, Meta},
};

/// The oldest Kubernetes with native sidecars.
const VERSION_MIN: (u32, u32) = (1, 29);
/// Certificates are backdated by 60 s; clocks that differ by half of it are near trouble.
const SKEW_MAX_S: u64 = 30;
/// What an installation makes: API group, resource, whether it is in a namespace.
const CREATED: [(&str, &str, bool); 11] = [
    ("", "namespaces", false),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("", "secrets", true),
];

pub struct Facts {
    pub place: String,
    pub server: Result<Server, ApiError>,
    /// Unix time of this machine.
    pub now: u64,
}

/// What must be so before an installation.
pub struct Before {
    /// Resources, and whether they may be created.
    pub rights: Vec<(String, Result<bool, ApiError>)>,
    pub namespace: Result<bool, ApiError>,
}

pub async fn gather(cluster: &Cluster, now: u64) -> Facts {
    Facts { place: cluster.place().to_owned(), server: cluster.server().await, now }
}

pub async fn gather_before(cluster: &Cluster) -> Before {
    let mut rights = Vec::new();
    for (group, resource, namespaced) in CREATED {
        let mut attributes = json!({ "verb": "create", "group": group, "resource": resource });
        if namespaced {
            attributes["namespace"] = "lacewing".into();
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": attributes },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let allowed = cluster.post::<AccessReview>(path, &review).await.map(|review| review.status.allowed);
        let full = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        rights.push((full, allowed));
    }
    let namespace = cluster.find::<Meta>("/api/v1/namespaces/lacewing").await.map(|found| found.is_some());
    Before { rights, namespace }
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let answers = format!("the API server of {} answers", facts.place);
    let server = match &facts.server {
        Ok(server) => server,
        Err(error) => {
            let fix = error.hint.clone().unwrap_or_else(|| "try `kubectl get --raw /readyz`".to_owned());
            return vec![Check::bad(answers, error.to_string(), fix)];
        }
    };
    vec![Check::good(answers), version(&server.version), clock(server.date.as_deref(), facts.now)]
}

fn version(text: &str) -> Check {
    let (major, minor) = VERSION_MIN;
    let description = format!("it runs Kubernetes {major}.{minor} or later");
    let mut parts = text.trim_start_matches('v').split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse::<u32>().ok()
    });
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(a), Some(b)) if (a, b) >= VERSION_MIN => Check::good(format!("{description} ({text})")),
        (Some(_), Some(_)) => {
            let message = format!("it runs {text}, where an init container cannot be a sidecar");
            Check::bad(
                description,
                message,
                format!(
                    "upgrade the cluster to {major}.{minor} or later; `kubectl get nodes` tells what each node runs"
                ),
            )
        }
        _ => Check::bad(description, format!("its version {text:?} cannot be read"), "see `kubectl version`").mild(),
    }
}

fn clock(date: Option<&str>, now: u64) -> Check {
    let description = "its clock and this machine's agree";
    let Some(theirs) = date.and_then(unix_time) else {
        return Check::bad(description, "it does not say what time it is", "compare `date` here and on a node").mild();
    };
    let skew = theirs.abs_diff(now);
    if skew <= SKEW_MAX_S {
        return Check::good(description);
    }
    let way = if theirs > now { "behind" } else { "ahead of" };
    let message = format!("this machine is {skew}s {way} the API server; certificates depend on clocks");
    Check::bad(description, message, "set the clock that is wrong: see `timedatectl` here and on the nodes").mild()
}

/// Seconds since the Unix epoch of a date as HTTP writes it (RFC 9110, section 5.6.7: `Sun, 22 Nov 2026 12:00:00 GMT`).
fn unix_time(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = date.split_once(", ")?.1.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = u64::try_from(MONTHS.iter().position(|month| *month == name)?).ok()? + 1;
    let year: u64 = parts.next().and_then(|year| year.parse().ok()).filter(|year| (1970..10_000).contains(year))?;
    let mut clock = parts.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    // Days before a day of the Gregorian calendar, whose year begins in March here.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * 86_400 + hour * 3_600 + minute * 60 + second)
}

pub fn judge_before(facts: &Before) -> Vec<Check> {
    let free = "the namespace lacewing is not there yet";
    let namespace = match &facts.namespace {
        Ok(false) => Check::good(free),
        Ok(true) => {
            let fix = "if that is Lacewing, use `mesh upgrade`; `mesh check` tells how it is";
            Check::bad(free, "the namespace exists", fix).mild()
        }
        Err(error) => Check::unknown(free, error),
    };
    let refused: Vec<&str> = facts
        .rights
        .iter()
        .filter(|(_, may)| matches!(may, Ok(false)))
        .map(|(resource, _)| resource.as_str())
        .collect();
    let description = "you may create what an installation creates";
    let rights = match facts.rights.iter().find_map(|(_, may)| may.as_ref().err()) {
        Some(error) => Check::unknown(description, error),
        None if refused.is_empty() => Check::good(description),
        None => {
            let message = format!("you may not create {}", refused.join(", "));
            let fix = format!(
                "have `mesh install | kubectl apply -f -` run by a cluster administrator; see `kubectl auth can-i create {}`",
                refused[0]
            );
            Check::bad(description, message, fix)
        }
    };
    vec![namespace, rights]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::{
            Outcome,
            tests::{all_good, one_is},
        },
        cluster::Cause,
    };

    fn facts(version: &str, date: Option<&str>, now: u64) -> Facts {
        let server = Server { version: version.to_owned(), date: date.map(str::to_owned) };
        Facts { place: "context dev".to_owned(), server: Ok(server), now }
    }

    /// 2026-11-22 12:00:00 UTC.
    const NOON: u64 = 1_795_348_800;
    const DATE: Option<&str> = Some("Sun, 22 Nov 2026 12:00:00 GMT");

    #[test]
    fn dates_of_http_are_read() {
        for (date, expected) in [
            ("Sun, 22 Nov 2026 12:00:00 GMT", Some(NOON)),
            ("Thu, 01 Jan 1970 00:00:01 GMT", Some(1)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Sunday, 22-Nov-26 12:00:00 GMT", None),
            ("yesterday", None),
            ("Sun, 22 Nov 99999999999 12:00:00 GMT", None),
        ] {
            assert_eq!(unix_time(date), expected, "{date}");
        }
    }

    #[test]
    fn old_servers_and_wrong_clocks_are_found() {
        all_good(&judge(&facts("v1.34.4+k3s1", DATE, NOON + 20)));
        one_is(&judge(&facts("v1.28.15", DATE, NOON)), Outcome::Error, &["1.29", "v1.28.15", "upgrade the cluster"]);
        one_is(&judge(&facts("one", DATE, NOON)), Outcome::Warning, &["kubectl version"]);
        one_is(&judge(&facts("v1.29", DATE, NOON + 90)), Outcome::Warning, &["90s ahead of", "timedatectl"]);
        one_is(&judge(&facts("v2.0.0", DATE, NOON - 90)), Outcome::Warning, &["90s behind"]);
        let away = ApiError::new(Cause::Unreachable, "nobody listens").hint("is it up? `kubectl get nodes`");
        let gone = Facts { server: Err(away), ..facts("", None, 0) };
        one_is(&judge(&gone), Outcome::Error, &["nobody listens", "is it up?"]);
    }

    #[test]
    fn before_an_installation_rights_and_place_are_looked_at() {
        let before = |allowed: bool, there: bool| Before {
            rights: vec![
                ("services".to_owned(), Ok(true)),
                ("clusterroles.rbac.authorization.k8s.io".to_owned(), Ok(allowed)),
            ],
            namespace: Ok(there),
        };
        all_good(&judge_before(&before(true, false)));
        one_is(&judge_before(&before(true, true)), Outcome::Warning, &["the namespace exists", "mesh upgrade"]);
        one_is(
            &judge_before(&before(false, false)),
            Outcome::Error,
            &["may not create clusterroles.rbac", "kubectl auth can-i create clusterroles.rbac"],
        );
    }
}
