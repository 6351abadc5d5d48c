//! The double of an API server keeps the contract that real ones keep; against those it runs in ring `cluster`.

use lacewing_tests::api::{
    Api, Token,
    contract::{Server, holds},
};
use serde_json::json;

#[test]
fn the_double_keeps_the_contract() {
    let api = Api::start();
    for name in ["default", "kube-system", "it"] {
        api.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    api.compact();
    let (username, audiences) =
        ("system:serviceaccount:it:default".to_owned(), vec!["lacewing.dev/identity".to_owned()]);
    api.token("good", Token { username, audiences, pod: String::new() });
    holds(&Server { address: api.address, namespace: "it", token: "good" });
}
