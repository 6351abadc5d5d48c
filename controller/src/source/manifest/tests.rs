//! Files as people write them, right and wrong; each wrong one must be refused with its place and a useful cause.

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web-1\n";

fn refused(text: &str) -> (u64, u64, String) {
    let error = parse(text).expect_err(text);
    (error.line.unwrap(), error.column.unwrap(), error.cause)
}

#[test]
fn reads_documents_and_counts_their_lines() {
    let text = format!("# head\n---\n{POD}---\n# nothing\n---\nnull\n--- # next\n{}", POD.replace("web-1", "web-2"));
    let parsed = parse(&text).unwrap();
    let found: Vec<_> = parsed.iter().map(|p| (p.line, p.object.metadata().name.as_str())).collect();
    assert_eq!(found, [(2, "web-1"), (11, "web-2")]);
    assert_eq!(parse(""), Ok(vec![]));
    assert_eq!(parse("---\n---\n...\n"), Ok(vec![]));
}

#[test]
fn the_items_of_a_list_are_objects_of_their_own() {
    let item = |name: &str, more: &str| {
        format!("- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: {name}\n    resourceVersion: '1'\n{more}")
    };
    let service = "- apiVersion: v1\n  kind: Service\n  metadata: {name: web}\n  spec: {ports: [{port: 80}]}\n";
    let list = |items: &str| {
        format!("{POD}---\napiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n{items}")
    };
    let parsed = parse(&list(&(item("a", "") + service + &item("b", "")))).unwrap();
    let found: Vec<_> = parsed.iter().map(|p| (p.line, p.object.key().to_string())).collect();
    let expected =
        [(1, "Pod default/web-1"), (10, "Pod default/a"), (15, "Service default/web"), (19, "Pod default/b")];
    assert_eq!(found, expected.map(|(line, key)| (line, key.to_owned())));
    assert_eq!(parse("apiVersion: v1\nkind: List\nitems: null\n"), Ok(vec![]));
    for (text, line, cause) in [
        (
            list(&(item("a", "") + &item("b", "  spce: {}\n"))),
            20,
            "unknown field \"items[1].spce\"; did you mean spec?",
        ),
        (list(&(service.to_owned() + &item("B", ""))), 17, "\"B\" is no name"),
        (list("- {apiVersion: v1, kind: ConfigMap}\n"), 10, "\"ConfigMap\", only"),
        (list(&item("a", "  spec: {containers: {}}\n")), 15, "expected a list here"),
        (list("").replace("items", "itmes"), 9, "unknown field \"itmes\"; did you mean items?"),
    ] {
        let (found, _, why) = refused(&text);
        assert!(found == line && why.contains(cause), "{text}: line {found}: {why}");
    }
}

#[test]
fn a_document_marker_inside_a_text_is_text() {
    let text = format!("{POD}  annotations:\n    note: |\n      ---\n      kind: Nonsense\n");
    assert_eq!(parse(&text).unwrap().len(), 1);
}

#[test]
fn fields_of_kubernetes_that_the_mesh_does_not_read_pass() {
    let text = format!(
        "{POD}  creationTimestamp: null\n  managedFields: [{{manager: x}}]\nspec:\n  volumes: [{{name: v, anything: 1}}]\n  \
         containers:\n  - name: a\n    image: x\n    env: [{{name: A, value: b}}]\n    livenessProbe: {{tcpSocket: {{port: 1}}}}\n    \
         ports: [{{containerPort: 80, hostPort: 80}}]\nstatus:\n  qosClass: Burstable\n  conditions: [{{type: Ready, status: 'True', reason: x}}]\n"
    );
    assert_eq!(parse(&text).unwrap().len(), 1);
}

#[test]
fn unknown_fields_are_refused_where_they_stand() {
    for (below, line, column, cause) in [
        ("spec:\n  conatiners: []\n", 6, 3, "unknown field \"spec.conatiners\"; did you mean containers?"),
        (
            "spec:\n  containers:\n  - name: a\n    prots: []\n",
            8,
            5,
            "unknown field \"spec.containers[0].prots\"; did you mean ports?",
        ),
        ("spce: {}\n", 5, 1, "unknown field \"spce\"; did you mean spec?"),
        ("  lables: {a: b}\n", 5, 3, "unknown field \"metadata.lables\"; did you mean labels?"),
        ("status:\n  podIp: 10.0.0.1\n", 6, 3, "unknown field \"status.podIp\"; did you mean podIP?"),
        ("spec:\n  somethingElse: 1\n", 6, 3, "unknown field \"spec.somethingElse\""),
    ] {
        // A document before it must not shift the place.
        let text = format!("{}---\n{POD}{below}", POD.replace("web-1", "web-0"));
        assert_eq!(refused(&text), (line + 5, column, cause.to_owned()), "{below}");
    }
}

#[test]
fn kinds_and_versions_are_refused_by_name() {
    for (text, line, part) in [
        ("kind: Deployment\napiVersion: apps/v1\n", 1, "\"Deployment\", only Namespace, Pod, Service, EndpointSlice"),
        ("kind: pod\napiVersion: v1\n", 1, "\"pod\""),
        ("apiVersion: v1\n", 1, "`kind` is missing"),
        ("kind: Pod\n", 1, "`apiVersion` is missing: v1 for a Pod"),
        ("kind: EndpointSlice\napiVersion: v1\n", 2, "read as discovery.k8s.io/v1, not \"v1\""),
        ("just text\n", 1, ""),
        ("- a\n- b\n", 1, ""),
    ] {
        let (found, _, cause) = refused(text);
        assert!(found == line && cause.contains(part), "{text}: {found} {cause}");
    }
}

#[test]
fn broken_yaml_is_refused_where_it_breaks() {
    for (below, line, cause) in [
        ("spec: [\n", 5, "unclosed bracket '['"),
        ("spec:\n  hostNetwork: perhaps\n", 6, "expected true or false"),
        ("spec:\n  containers: {}\n", 6, "expected a list here"),
        ("spec:\n  containers: [web]\n", 6, "expected `key: value` pairs here"),
        ("spec:\n  serviceAccountName: [web]\n", 6, "expected a text here"),
        ("spec:\n  containers:\n  - ports: [{containerPort: 70000}]\n", 7, "expected a number from 0 to 65535"),
        ("spec:\n  containers:\n  - ports: [{name: a}]\n", 7, "missing field `containerPort`"),
        ("spec: {}\nspec: {}\n", 6, "duplicate mapping key: spec"),
        ("status: {podIP: 10.0.0.300}\n", 5, "invalid IP address syntax"),
        ("\tspec: {}\n", 4, "while scanning a plain scalar, found a tab"),
        ("spec: &a [*a]\n", 5, ""),
        ("...\nmore: text\n", 6, "there is text after the end of the document: start another one with ---"),
    ] {
        let (found, _, why) = refused(&format!("{POD}{below}"));
        assert!(found == line && (why == cause || cause.is_empty()), "{below:?}: line {found}, {why}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused_where_they_stand() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports:\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a";
    for (text, line, part) in [
        (format!("{POD}  annotations:\n    config.lacewing.dev/inbound: Strict\n"), 6, "permissive or strict"),
        (format!("{POD}  annotations:\n    lacewing.dev/inject: 'true'\n"), 6, "enabled, disabled or ingress"),
        (format!("{POD}  annotations:\n    lacewing.dev/injcet: enabled\n"), 6, "did you mean lacewing.dev/inject?"),
        (format!("{POD}  annotations:\n    lacewing.dev/proxy-address: 127.0.0.1\n"), 6, "not ip:port"),
        (format!("{POD}  deletionTimestamp: soon\n"), 5, "\"soon\" is no time"),
        (format!("{POD}  deletionTimestamp: ''\n"), 5, "is no time"),
        (format!("{POD}  deletionTimestamp: 2026-11-22T04:00:00\n"), 5, "is no time"),
        (format!("{POD}  namespace: Prod\n"), 5, "\"Prod\" is no name"),
        ("kind: Pod\napiVersion: v1\n".to_owned(), 1, "metadata.name is missing"),
        ("kind: Namespace\napiVersion: v1\nmetadata: {name: a.b}\n".to_owned(), 3, "\"a.b\" is no name"),
        ("kind: Namespace\napiVersion: v1\nmetadata: {name: a, namespace: b}\n".to_owned(), 3, "in no namespace"),
        (format!("{POD}spec: {{containers: [{{ports: [{{containerPort: 0}}]}}]}}\n"), 5, "from 1 to 65535"),
        (format!("{service}  - port: 0\n"), 6, "from 1 to 65535"),
        (format!("{service}  - {{port: 80, name: a}}\n  - {{port: 80, name: b}}\n"), 7, "twice"),
        (format!("{service}  - {{port: 80, name: a}}\n  - {{port: 81}}\n"), 5, "needs a name"),
        (format!("{service}  - {{port: 80, name: a}}\n  - {{port: 81, name: a}}\n"), 7, "two ports are named"),
        (format!("{POD}  labels:\n    config.lacewing.dev/inbound: strict\n"), 6, "reads annotations"),
        (format!("{POD}  labels:\n    lacewing.dev/anything: x\n"), 6, "is no label of the mesh"),
        (
            "kind: Service\napiVersion: v1\nmetadata:\n  name: a\n  annotations: {config.lacewing.dev/inbound: strict}\n"
                .to_owned(),
            5,
            "means nothing on a Service: write it on a Namespace or Pod",
        ),
        (
            "kind: Namespace\napiVersion: v1\nmetadata:\n  name: a\n  annotations: {lacewing.dev/proxy-version: v1}\n"
                .to_owned(),
            5,
            "write it on a Pod",
        ),
        (format!("{POD}spec:\n  serviceAccount: Web\n"), 6, "\"Web\" is no name"),
        (
            format!(
                "{slice}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nendpoints: [{{addresses: [web]}}]\n"
            ),
            5,
            "\"web\" is no IPv4 address",
        ),
    ] {
        let (found, _, cause) = refused(&text);
        assert!(found == line && cause.contains(part), "{text}: line {found}: {cause}");
    }
}

#[test]
fn what_kubernetes_takes_is_taken() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a";
    for text in [
        format!("{POD}  annotations:\n    note:\n  labels:\n    a:\n    b: ~\n"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80, targetPort: 0}]}\n".to_owned(),
        format!("{slice}}}\naddressType: IPv4\n"),
        format!(
            "{slice}, labels: {{kubernetes.io/service-name: a}}}}\naddressType: FQDN\nendpoints: [{{addresses: [a.example]}}]\n"
        ),
        format!("{POD}  resourceVersion: '1'\n  deletionTimestamp: null\nstatus: {{phase: Running}}\n"),
        format!("{POD}  deletionTimestamp: 2026-11-22T04:00:00Z\n"),
        format!("{POD}  deletionTimestamp: '2026-11-22T04:00:00.123456+02:00'\n"),
        format!("{POD}spec: {{nodeName: n, terminationGracePeriodSeconds: 3, serviceAccount: web}}\n"),
    ] {
        assert_eq!(parse(&text).map(|parsed| parsed.len()), Ok(1), "{text}");
    }
}

#[test]
fn a_file_that_multiplies_itself_is_refused() {
    // Nine levels of eight: more than a hundred million nodes, in a field that nobody even reads.
    let mut bomb = format!("{POD}spec:\n  volumes:\n  - &a [x, x, x, x, x, x, x, x]\n");
    for (last, next) in ('a'..='h').zip('b'..='i') {
        bomb.extend(["  - &", &next.to_string(), " [", &format!("*{last}, ").repeat(8), "]\n"]);
    }
    let (_, _, cause) = refused(&bomb);
    assert!(cause.contains("budget") || cause.contains("limit"), "{cause}");
    let many = "---\nx: y\n".repeat(DOCUMENTS_MAX + 2);
    assert!(refused(&many).2.contains("`kind` is missing"));
    parse(&"[".repeat(100_000)).unwrap_err();
}

#[test]
fn text_that_no_one_meant_never_panics() {
    for text in [
        "\u{feff}",
        "\0",
        "&a *a",
        "? ",
        "!!binary x",
        "%YAML 1.1\n---\nkind: Pod",
        "<<: {}",
        "{kind: [Pod]}",
        "'",
        "|",
    ] {
        let _ = parse(text);
        let _ = parse(&format!("{POD}{text}"));
    }
}
