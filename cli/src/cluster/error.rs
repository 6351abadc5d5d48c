//! Owns how a request to a cluster fails: what was asked, where, the likely cause and the next command.
//!
//! Words of the server are shown, made harmless first. Nothing is retried here.

use std::{fmt, io, time::Duration};

use hyper::Method;

use crate::{
    failure::{Exit, Failure},
    output::plain,
};

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The flags contradict each other.
    Usage,
    /// There is no usable kubeconfig.
    Config,
    /// Nobody answers there, or not whom we expect.
    Unreachable,
    Timeout,
    Unauthorized,
    Forbidden,
    NotFound,
    Other,
}

/// Why the cluster did not give what was asked for.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub cause: Cause,
    pub what: String,
    pub hint: Option<String>,
}

impl ApiError {
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        Self { cause, what: what.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn timeout(place: &str, after: Duration) -> Self {
        let what = format!("the API server of {place} did not answer within {}s", after.as_secs());
        Self::new(Cause::Timeout, what).hint("see whether it is busy with `kubectl get --raw /readyz?verbose`")
    }

    /// The client could not be made.
    pub(super) fn of_client(error: &kube::Error, place: &str) -> Self {
        Self::new(Cause::Config, format!("{place}: {}", chain(error)))
            .hint("look at the context with `kubectl config view --minify`")
    }

    /// `method` at `path` failed.
    pub(super) fn of_request(error: &kube::Error, method: &Method, path: &str, place: &str) -> Self {
        match error {
            kube::Error::Api(status) => {
                let said = plain(&status.message);
                match status.code {
                    401 => Self::new(Cause::Unauthorized, format!("{place} does not accept your credentials: {said}"))
                        .hint("have they expired? log in again, and see who you are with `kubectl auth whoami`"),
                    403 => Self::forbidden(&Asked::of(method, path).saying(&said), &said),
                    404 => Self::new(Cause::NotFound, said),
                    429 | 500..=599 => Self::new(Cause::Other, format!("{place} answered {}: {said}", status.code))
                        .hint("see how it is with `kubectl get --raw /readyz?verbose`"),
                    code => Self::new(Cause::Other, format!("{place} answered {code} to {path}: {said}")),
                }
            }
            kube::Error::Auth(why) => {
                Self::new(Cause::Unauthorized, format!("no credentials for {place}: {}", chain(why)))
                    .hint("does `kubectl auth whoami` work? the kubeconfig names how to log in")
            }
            other => Self::unreachable(other, place),
        }
    }

    fn forbidden(asked: &Asked, said: &str) -> Self {
        Self::new(Cause::Forbidden, format!("you may not {asked}: {said}")).hint(format!(
            "it needs the right to {asked}; `kubectl auth can-i {} {}{}` tells whether you have it",
            asked.verb,
            asked.resource,
            asked.namespace.as_ref().map_or_else(String::new, |namespace| format!(" -n {namespace}"))
        ))
    }

    fn unreachable(error: &kube::Error, place: &str) -> Self {
        let text = chain(error);
        let new = |what: String| Self::new(Cause::Unreachable, what);
        let refused = io_kind(error);
        if refused == Some(io::ErrorKind::ConnectionRefused) {
            return new(format!("nobody listens at {place}: connection refused")).hint(
                "is the cluster up? another one can be chosen with `--context NAME`; see `kubectl config get-contexts`",
            );
        }
        if refused == Some(io::ErrorKind::TimedOut) || text.contains("deadline has elapsed") {
            return Self::new(Cause::Timeout, format!("{place} cannot be reached: {text}"))
                .hint("is a VPN or firewall between you and it? try `kubectl get --raw /readyz`");
        }
        if text.contains("certificate") {
            return new(format!("{place} did not prove who it is: {text}"))
                .hint("was the cluster made anew? fetch its kubeconfig again; `kubectl config view --minify` shows what is used");
        }
        if text.contains("dns error") || text.contains("lookup") {
            return new(format!("the name of {place} is not known here: {text}"))
                .hint("see `server:` in `kubectl config view --minify`");
        }
        new(format!("{place} cannot be reached: {text}")).hint("try `kubectl get --raw /readyz`")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match error.cause {
            Cause::Usage => Exit::Usage,
            Cause::Timeout => Exit::Timeout,
            _ => Exit::Error,
        };
        let failure = Self::new(exit, error.what);
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// What a request asks for, in the words of RBAC.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub verb: &'static str,
    /// `pods`, `deployments.apps`, `pods/portforward`; a path where it is none of an object.
    pub resource: String,
    pub namespace: Option<String>,
}

impl Asked {
    pub fn of(method: &Method, path: &str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts[..] {
            ["api", _, ref rest @ ..] => ("", rest),
            ["apis", group, _, ref rest @ ..] => (group, rest),
            _ => ("", &[][..]),
        };
        let (namespace, rest) = match *rest {
            ["namespaces", namespace, _, ..] => (Some(namespace.to_owned()), &rest[2..]),
            _ => (None, rest),
        };
        let resource = match *rest {
            [] => return Self { verb: "get", resource: path.to_owned(), namespace },
            [kind, _, sub, ..] => format!("{kind}/{sub}"),
            [kind, ..] => kind.to_owned(),
        };
        let resource = if group.is_empty() { resource } else { format!("{resource}.{group}") };
        let verb = match *method {
            // A port-forward is a GET that upgrades: "get" to servers before Kubernetes 1.35, "create" since.
            Method::GET if rest.len() > 2 => "create",
            Method::GET if rest.len() == 1 && query.contains("watch=1") => "watch",
            Method::GET if rest.len() == 1 => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "use",
        };
        Self { verb, resource, namespace }
    }
}

impl Asked {
    /// With the verb that the server names in `said`, as in `cannot get resource`: it depends on its version.
    fn saying(self, said: &str) -> Self {
        const VERBS: [&str; 3] = ["get", "create", "list"];
        let named = VERBS.into_iter().find(|verb| said.contains(&format!("cannot {verb} resource")));
        Self { verb: named.unwrap_or(self.verb), ..self }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " in namespace {namespace:?}"))
    }
}

/// The error and what is behind it, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    plain(text.trim_start_matches("ServiceError: ").trim_start_matches("HyperError: "))
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_in_the_words_of_rbac() {
        for (method, path, verb, resource, namespace) in [
            (Method::GET, "/api/v1/namespaces/shop/pods?limit=500", "list", "pods", Some("shop")),
            (Method::GET, "/api/v1/pods", "list", "pods", None),
            (Method::GET, "/api/v1/namespaces/shop", "get", "namespaces", None),
            (Method::GET, "/api/v1/namespaces", "list", "namespaces", None),
            (Method::GET, "/apis/apps/v1/namespaces/a/deployments/web", "get", "deployments.apps", Some("a")),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/web-1/portforward?ports=4192",
                "create",
                "pods/portforward",
                Some("a"),
            ),
            (
                Method::POST,
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "create",
                "selfsubjectaccessreviews.authorization.k8s.io",
                None,
            ),
            (Method::DELETE, "/api/v1/namespaces/a/secrets/x", "delete", "secrets", Some("a")),
            (Method::GET, "/version", "get", "/version", None),
        ] {
            let asked = Asked::of(&method, path);
            let expected = Asked { verb, resource: resource.to_owned(), namespace: namespace.map(str::to_owned) };
            assert_eq!(asked, expected, "{path}");
        }
        let forward = Asked::of(&Method::GET, "/api/v1/namespaces/a/pods/web-1/portforward");
        let said = "User \"bob\" cannot get resource \"pods/portforward\" in API group \"\"";
        assert_eq!(forward.saying(said).verb, "get");
    }
}
