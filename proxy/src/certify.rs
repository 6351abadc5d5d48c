//! Gets the proxy's certificate from the controller and renews it between 50 and 70 % of its life. The key is made
//! here and stays in memory; the token is read again each time and sent only to a controller that proved its identity.
//! While renewal fails, the present certificate serves to its end. When another root goes first in the trust bundle, the
//! mesh signs under that from now on, and a certificate under another one is replaced early.

use std::{future::pending, io::Read, sync::Arc, time::Duration};

use lacewing_identity::{KeyAndCsr, Leaf, TrustBundle};
use lacewing_proto::control::CertifyRequest;
use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use crate::{
    clock,
    config::{CONTROL_TIMEOUT, Control, LOG_PAUSE, RENEW_EARLY_SHARE, RENEW_EARLY_WITHIN, TOKEN_MAX},
    discovery::{channel, client::Backoff},
    metrics::Metrics,
    tls::Identity,
};

/// Longest sleep before looking at the clock again: a suspended machine must not sleep through its renewal.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Keeps the identity fresh for as long as the process lives.
pub async fn run(identity: Arc<Identity>, control: Control, metrics: Arc<Metrics>) {
    let mut backoff = Backoff::default();
    let mut said: Option<(String, Instant)> = None;
    // For which first root the certificate was renewed early: once for each, or it would be asked for again and again.
    let mut moved = None;
    loop {
        let bundle = identity.current().map_or_else(|_| control.bundle.clone(), |current| current.bundle.clone());
        match certify(&control, &bundle).await {
            Ok((leaf, certified)) => {
                // Later bundles come over the stream, in order; this one could be older than what that said.
                let bundle = identity.current().map_or(certified, |current| current.bundle.clone());
                let (id, not_after, renew_at) = (leaf.id().clone(), leaf.not_after(), leaf.renew_at(fastrand::f64()));
                if let Err(error) = identity.set(leaf, bundle) {
                    tracing::error!(%error, "the new certificate is not usable");
                    backoff.wait().await;
                    continue;
                }
                tracing::info!(%id, not_after, "certificate obtained");
                metrics.certificate(not_after);
                backoff.reset();
                tokio::select! {
                    () = sleep_until(renew_at) => {}
                    root = another_root(&identity, moved.as_ref()) => {
                        tracing::info!("the mesh signs under another root; renewing the certificate");
                        moved = Some(root);
                    }
                }
            }
            Err(why) => {
                // Tried once a second or so; said when it is news, and now and then.
                if said.as_ref().is_none_or(|(last, at)| *last != why || at.elapsed() >= LOG_PAUSE) {
                    tracing::warn!(why, "no certificate; trying again");
                    said = Some((why.clone(), Instant::now()));
                }
                identity.waiting_for(why);
                backoff.wait().await;
            }
        }
    }
}

/// Waits until the certificate does not lie under the first root of the bundle, and then a little: everybody hears of the
/// other root at once. The root that goes first is given back; nothing is done again for the one in `moved`.
async fn another_root(identity: &Identity, moved: Option<&CertificateDer<'static>>) -> CertificateDer<'static> {
    let mut changed = identity.subscribe();
    loop {
        changed.borrow_and_update();
        if let Ok(current) = identity.current()
            && let Some(first) = current.bundle.certificates().first()
            && Some(first) != moved
            && !current.leaf.is_under_first(&current.bundle)
        {
            let life = current.leaf.not_after().saturating_sub(current.leaf.not_before());
            let within = (Duration::from_secs(life) / RENEW_EARLY_SHARE).min(RENEW_EARLY_WITHIN);
            tokio::time::sleep(within.mul_f64(fastrand::f64())).await;
            return first.clone();
        }
        if changed.changed().await.is_err() {
            return pending().await;
        }
    }
}

async fn sleep_until(unix_s: u64) {
    loop {
        let left = unix_s.saturating_sub(clock::unix_now());
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(left).min(CLOCK_CHECK)).await;
    }
}

async fn certify(control: &Control, bundle: &TrustBundle) -> Result<(Leaf, TrustBundle), String> {
    let token = read_token(control)?;
    let (key, csr) = KeyAndCsr::generate().map_err(|error| error.to_string())?;
    let mut client = channel::connect(control, bundle, None).await?;
    let answer = timeout(CONTROL_TIMEOUT, client.certify(CertifyRequest { token, csr })).await;
    let answer = answer.map_err(|_| format!("the controller did not certify within {}s", CONTROL_TIMEOUT.as_secs()))?;
    let answer = answer
        .map_err(|status| format!("the controller refused to certify: {} {:?}", status.code(), status.message()))?;
    let answer = answer.into_inner();
    let validity = (u64::try_from(answer.not_before), u64::try_from(answer.not_after));
    let (Ok(not_before), Ok(not_after)) = validity else {
        return Err("the certificate's dates are not dates".to_owned());
    };
    let leaf = key.with_chain(answer.chain, not_before, not_after).map_err(|error| error.to_string())?;
    if !leaf.id().is_in(&control.trust_domain) {
        return Err(format!("the certificate is of another trust domain: {}", leaf.id()));
    }
    let bundle = TrustBundle::from_der(answer.trust_bundle).map_err(|error| error.to_string())?;
    Ok((leaf, bundle))
}

/// Reads the token: a few hundred bytes from a memory file system, once a day, so without a thread of its own.
fn read_token(control: &Control) -> Result<String, String> {
    let path = &control.token_file;
    let mut token = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut token))
        .map_err(|error| format!("token file {}: {error}", path.display()))?;
    let token = token.trim_end();
    if token.is_empty() { Err(format!("token file {} is empty", path.display())) } else { Ok(token.to_owned()) }
}

#[cfg(test)]
mod tests;
