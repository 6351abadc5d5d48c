//! The small decisions of following; what an API server does to it is in ring `it`.

use super::*;

#[test]
fn a_list_is_made_anew_only_where_nothing_else_helps() {
    for (status, relist) in [
        (None, false),
        (Some(401), false),
        (Some(403), false),
        (Some(429), false),
        (Some(500), false),
        (Some(503), false),
        (Some(400), true),
        (Some(404), true),
        (Some(410), true),
        (Some(504), true),
        (Some(UNREADABLE), true),
    ] {
        assert_eq!(must_relist(status), relist, "{status:?}");
    }
}

#[test]
fn values_in_a_query_are_encoded() {
    assert_eq!(encoded("aZ09-._~"), "aZ09-._~");
    assert_eq!(encoded("a b&c=%/+"), "a%20b%26c%3D%25%2F%2B");
}
