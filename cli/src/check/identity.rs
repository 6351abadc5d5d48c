//! Owns the checks of trust: root and issuer are valid and will be, the Secret is whole, and the webhook's certificate is
//! one that the API server accepts.
//!
//! Nothing secret is read where the controller tells as much: it is asked by port-forward.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Check, some_of};
use crate::{
    check::install::{WEBHOOK, controllers},
    cluster::{
        ApiError, Cluster, Forward,
        objects::{Secret, WebhookConfiguration},
    },
    live::{self, TrustProblem, Way},
    output::{plain, units},
};

/// Port of the controller with its figures, and with the webhook.
const ADMIN_PORT: u16 = 9990;
const WEBHOOK_PORT: u16 = 8443;
/// What nobody renews must be looked at this long before its end, in seconds.
const NOTICE_S: u64 = 60 * 86_400;
/// Where it is not known who renews.
const NOTICE_UNKNOWN_S: u64 = 7 * 86_400;
const SECRET: &str = "/api/v1/namespaces/lacewing/secrets/lacewing-root";
const LOGS: &str = "see `kubectl -n lacewing logs deployment/lacewing-controller`";
/// Matters of trust that somebody should see to, and that break nothing for a long while.
const WORKS_ON: [&str; 3] = ["rotation", "issuer", "previous"];
/// Name by which the API server calls the webhook.
const WEBHOOK_NAME: &str = "lacewing-controller.lacewing.svc";

/// What a controller tells about trust; times are Unix seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    pub issuer_not_after: Option<u64>,
    pub root_not_after: Option<u64>,
    /// By a word for what each concerns.
    pub problems: BTreeMap<String, TrustProblem>,
}

/// What a controller told, by its pod; or why it did not.
type TrustOf = (String, Result<Trust, String>);

pub struct Facts {
    pub now: u64,
    /// What each controller told; or why nobody could be asked.
    pub trust: Result<Vec<TrustOf>, ApiError>,
    pub secret: Result<Option<Secret>, ApiError>,
    /// Whether the handshake with each controller's webhook goes well under the caBundle.
    pub webhooks: Vec<(String, Result<(), String>)>,
}

pub async fn gather(cluster: &Cluster, now: u64) -> Facts {
    let (pods, webhook, secret) =
        tokio::join!(controllers(cluster), cluster.find::<WebhookConfiguration>(WEBHOOK), cluster.find(SECRET));
    let bundle = webhook.ok().flatten().and_then(|configuration| {
        configuration.webhooks.into_iter().next()?.client_config.ca_bundle.filter(|bundle| !bundle.is_empty())
    });
    let (mut trust, mut webhooks) = (Vec::new(), Vec::new());
    let (pods, refused) = match pods {
        Ok(pods) => (pods, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    for pod in pods.iter().filter(|pod| pod.is_ready()) {
        let forward = |port| Forward::new(cluster, pod.namespace(), pod.name(), port);
        let way = Way::Forward(Arc::new(forward(ADMIN_PORT)));
        let told =
            async { Ok(Trust { problems: live::trust_problems(&way).await?, ..read(&live::metrics(&way).await?) }) };
        trust.push((pod.name().to_owned(), told.await));
        if let Some(bundle) = &bundle {
            let shaken = forward(WEBHOOK_PORT).shake_hands(bundle, WEBHOOK_NAME).await;
            webhooks.push((pod.name().to_owned(), shaken));
        }
    }
    Facts { now, trust: refused.map_or(Ok(trust), Err), secret, webhooks }
}

/// Reads the figures out of the exposition format.
fn read(metrics: &str) -> Trust {
    let figure = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let value: f64 = line.split(' ').next()?.parse().ok()?;
        (value >= 0.0 && value.is_finite()).then_some(value as u64)
    };
    Trust {
        issuer_not_after: figure("lacewing_controller_trust_issuer_not_after_seconds"),
        root_not_after: figure("lacewing_controller_trust_root_not_after_seconds"),
        problems: BTreeMap::new(),
    }
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![secret(&facts.secret)];
    let own = facts.secret.as_ref().ok().and_then(Option::as_ref).map(Secret::is_the_controllers);
    let trust = match &facts.trust {
        Ok(trust) => trust,
        Err(error) => {
            checks.push(Check::unknown("root and issuer are valid", error));
            return checks;
        }
    };
    let told: Vec<&Trust> = trust.iter().filter_map(|(_, trust)| trust.as_ref().ok()).collect();
    checks.push(match (told.is_empty(), trust.iter().find_map(|(pod, trust)| Some((pod, trust.as_ref().err()?)))) {
        (true, Some((pod, why))) => Check::bad(
            "root and issuer are valid",
            format!("{pod} cannot be asked: {why}"),
            "see `kubectl auth can-i get pods/portforward -n lacewing` (since Kubernetes 1.35: create)",
        )
        .mild(),
        (true, None) => Check::bad("root and issuer are valid", "no controller is ready to be asked", LOGS).mild(),
        (false, _) => validity(&told, own, facts.now),
    });
    checks.extend((!told.is_empty()).then(|| problems(&told)));
    checks.extend((!facts.webhooks.is_empty()).then(|| webhook(&facts.webhooks)));
    checks
}

/// What is wrong by the controllers' own account. A controller that starts anew would have nothing to go on with.
fn problems(told: &[&Trust]) -> Check {
    let description = "the controller can use what is kept of trust";
    let all: BTreeMap<&String, &TrustProblem> = told.iter().flat_map(|trust| &trust.problems).collect();
    let Some(first) = all.values().next() else { return Check::good(description) };
    let said = |problem: &&TrustProblem| plain(&format!("{}: {}; {}", problem.place, problem.cause, problem.in_force));
    let message = all.values().map(said).collect::<Vec<_>>().join("; ");
    let check = Check::bad(description, message, first.way_out.as_deref().map_or_else(|| LOGS.to_owned(), plain));
    if all.keys().all(|matter| WORKS_ON.contains(&matter.as_str())) { check.mild() } else { check }
}

fn validity(told: &[&Trust], own: Option<bool>, now: u64) -> Check {
    let description = "root and issuer are valid";
    let least = |of: fn(&Trust) -> Option<u64>| told.iter().filter_map(|trust| of(trust)).min();
    let (issuer, root) = (least(|trust| trust.issuer_not_after), least(|trust| trust.root_not_after));
    let (Some(issuer), Some(root)) = (issuer, root) else {
        let message = "the controller does not tell until when";
        return Check::bad(description, message, "is it another version? see `mesh version`").mild();
    };
    let (what, first) = if issuer <= root { ("issuer", issuer) } else { ("root", root) };
    let Some(left) = first.checked_sub(now).filter(|left| *left > 0) else {
        let message = format!("the {what} has expired: no proxy gets or renews a certificate");
        let fix = if own == Some(false) {
            "have it renewed by whoever makes it; see `kubectl -n lacewing describe secret lacewing-root`"
        } else {
            "let the controller make it anew: `kubectl -n lacewing annotate secret lacewing-root lacewing.dev/rotate=now`"
        };
        return Check::bad(description, message, fix);
    };
    let days = units::span(Duration::from_secs(left));
    let notice = match own {
        Some(true) => 0,
        Some(false) => NOTICE_S,
        None => NOTICE_UNKNOWN_S,
    };
    if left < notice {
        let fix = "have the issuer renewed by whoever makes it, and see `kubectl -n lacewing describe secret lacewing-root`; \
                   the controller takes it without a restart";
        return Check::bad(description, format!("the {what} expires in {days}"), fix).mild();
    }
    let renewed = if own == Some(true) { "; the controller renews it itself" } else { "" };
    Check::good(format!("{description} (the {what} for {days}{renewed})"))
}

fn secret(secret: &Result<Option<Secret>, ApiError>) -> Check {
    let description = "the Secret lacewing-root is whole";
    let found = match secret {
        Ok(Some(found)) => found,
        Ok(None) => {
            let message = "it is not there: the controller makes it when it starts, or an operator gives it";
            return Check::bad(description, message, LOGS);
        }
        // Most people may not read Secrets, and need not.
        Err(_) => return Check::good(format!("{description} (left to the controller: you may not read it)")),
    };
    let missing: Vec<&str> =
        ["tls.crt", "tls.key", "ca.crt"].into_iter().filter(|key| !found.data.contains_key(*key)).collect();
    if missing.is_empty() && found.kind == "kubernetes.io/tls" {
        return Check::good(description);
    }
    let message = if missing.is_empty() {
        format!("its type is {:?}, not kubernetes.io/tls", found.kind)
    } else {
        format!("it has no {}", missing.join(", "))
    };
    Check::bad(
        description,
        message,
        "give it tls.crt and tls.key (the issuer) and ca.crt (the roots), as cert-manager does; what it has is shown by \
         `kubectl -n lacewing describe secret lacewing-root`",
    )
}

fn webhook(webhooks: &[(String, Result<(), String>)]) -> Check {
    let description = "the webhook's certificate is under the caBundle";
    let failing: Vec<String> =
        webhooks.iter().filter_map(|(pod, shaken)| Some(format!("{pod}: {}", shaken.as_ref().err()?))).collect();
    if failing.is_empty() {
        return Check::good(description);
    }
    Check::bad(description, some_of(&failing), LOGS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        check::{
            Outcome::{Error, Warning},
            tests::{all_good, one_is},
        },
        cluster::Cause,
    };

    const DAY: u64 = 86_400;

    #[allow(clippy::unnecessary_wraps, reason = "as it was asked for")]
    fn made(keys: &[&str], own: bool) -> Result<Option<Secret>, ApiError> {
        let data: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), json!(""))).collect();
        let labels = if own { json!({ "app.kubernetes.io/managed-by": "lacewing-controller" }) } else { json!({}) };
        Ok(Some(
            serde_json::from_value(
                json!({ "type": "kubernetes.io/tls", "metadata": { "labels": labels }, "data": data }),
            )
            .expect("a secret"),
        ))
    }

    fn problem(way_out: Option<&str>) -> TrustProblem {
        TrustProblem {
            place: "Secret lacewing/lacewing-root".to_owned(),
            cause: "tls.crt expired".to_owned(),
            way_out: way_out.map(str::to_owned),
            in_force: "the last good one stays in use".to_owned(),
        }
    }

    fn trust(issuer_days: u64, problems: &[(&str, TrustProblem)]) -> Trust {
        let problems = problems.iter().map(|(matter, problem)| ((*matter).to_owned(), problem.clone())).collect();
        Trust { issuer_not_after: Some(issuer_days * DAY), root_not_after: Some(4_000 * DAY), problems }
    }

    fn facts(issuer_days: u64, own: bool) -> Facts {
        Facts {
            now: DAY,
            trust: Ok(vec![("c-1".to_owned(), Ok(trust(issuer_days, &[])))]),
            secret: made(&["tls.crt", "tls.key", "ca.crt"], own),
            webhooks: vec![("c-1".to_owned(), Ok(()))],
        }
    }

    #[test]
    fn figures_are_read_from_the_metrics() {
        let text = "# TYPE x gauge\nlacewing_controller_trust_issuer_not_after_seconds 1795348800\n\
                    lacewing_controller_trust_root_not_after_seconds_other 7\n";
        let expected = Trust { issuer_not_after: Some(1_795_348_800), ..Trust::default() };
        assert_eq!(read(text), expected);
    }

    #[test]
    fn what_runs_out_is_told_in_time_unless_it_renews_itself() {
        all_good(&judge(&facts(30, true)));
        all_good(&judge(&facts(90, false)));
        one_is(&judge(&facts(30, false)), Warning, &["the issuer expires in 29d", "describe secret lacewing-root"]);
        one_is(&judge(&facts(1, true)), Error, &["has expired", "lacewing.dev/rotate=now"]);
        one_is(&judge(&facts(0, false)), Error, &["has expired", "renewed by whoever makes it"]);
        let unread = || Err(ApiError::new(Cause::Forbidden, "no"));
        all_good(&judge(&Facts { secret: unread(), ..facts(30, true) }));
        one_is(&judge(&Facts { secret: unread(), ..facts(5, true) }), Warning, &["expires in 4d"]);
    }

    #[test]
    fn what_is_not_whole_or_not_known_is_named() {
        one_is(&judge(&Facts { secret: Ok(None), ..facts(30, true) }), Error, &["not there", "logs"]);
        let cut = Facts { secret: made(&["tls.crt"], false), ..facts(90, true) };
        one_is(&judge(&cut), Error, &["it has no tls.key, ca.crt"]);
        let silent = Facts { trust: Ok(vec![("c-1".to_owned(), Err("refused".to_owned()))]), ..facts(30, true) };
        one_is(&judge(&silent), Warning, &["c-1 cannot be asked: refused", "pods/portforward"]);
        let strange = Facts { webhooks: vec![("c-1".to_owned(), Err("unknown issuer".to_owned()))], ..facts(30, true) };
        one_is(&judge(&strange), Error, &["c-1: unknown issuer"]);
    }

    #[test]
    fn what_the_controller_cannot_use_is_named_with_what_mends_it() {
        let table = [
            (
                vec![("kept", problem(Some("`kubectl mend it`")))],
                Error,
                ["lacewing/lacewing-root: tls.crt expired; the last good one stays", "`kubectl mend it`"],
            ),
            (vec![("own", problem(None))], Error, ["tls.crt expired", "kubectl -n lacewing logs"]),
            (vec![("issuer", problem(None))], Warning, ["tls.crt expired", "kubectl -n lacewing logs"]),
            (vec![("issuer", problem(None)), ("something-new", problem(None))], Error, ["expired", "logs"]),
        ];
        for (problems, result, parts) in table {
            let told = [("c-1".to_owned(), Ok(trust(30, &[]))), ("c-2".to_owned(), Ok(trust(30, &problems)))];
            one_is(&judge(&Facts { trust: Ok(told.into()), ..facts(30, true) }), result, &parts);
        }
    }
}
