//! The API server keeps the contract to which the tests' double of it is held. It is asked late: one that has just started has
//! not yet forgotten anything, and what it says of versions that are gone is part of the contract.

use lacewing_tests::{
    api::contract,
    cluster::{Gateway, Space},
};

#[test]
fn the_server_keeps_the_contract_that_the_double_keeps() {
    let space = Space::plain("contract");
    let token = space.kubectl(&["create", "token", "default", "--audience", "lacewing.dev/identity"]);
    let gateway = Gateway::open();
    contract::holds(&contract::Server { address: gateway.address, namespace: space.name(), token: token.trim() });
}
