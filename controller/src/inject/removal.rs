//! Owns taking out what injection put in, found by its names: injecting and removing leaves a pod as it was, but for
//! lists and maps that were there and empty.

use lacewing_crds::labels;
use serde_json::{Value, json};

use super::{INIT_CONTAINER, PROXY_CONTAINER, STATE_VOLUME, TOKEN_VOLUME, edit::Edit, probes};

/// Takes the proxy and all that belongs to it out of a pod or pod template.
///
/// # Errors
/// What is there has not the shape of a pod.
pub fn remove(edit: &mut Edit) -> Result<(), String> {
    remove_named(edit, "initContainers", &[INIT_CONTAINER, PROXY_CONTAINER])?;
    remove_named(edit, "volumes", &[TOKEN_VOLUME, STATE_VOLUME])?;
    probes::restore(edit)?;
    for path in [["metadata", "annotations", labels::PROXY_VERSION], ["metadata", "labels", labels::MESHED]] {
        if edit.get(&path).is_some() {
            edit.remove(&path)?;
        }
    }
    Ok(())
}

/// Whether there is a proxy in it.
pub fn has_proxy(pod: &Value) -> bool {
    let containers = pod["spec"]["initContainers"].as_array();
    containers.into_iter().flatten().any(|container| container["name"] == json!(PROXY_CONTAINER))
}

fn remove_named(edit: &mut Edit, list: &str, names: &[&str]) -> Result<(), String> {
    let count = edit.get(&["spec", list]).and_then(Value::as_array).map_or(0, Vec::len);
    for index in (0..count).rev().map(|index| index.to_string()) {
        let name = edit.get(&["spec", list, &index, "name"]).and_then(Value::as_str);
        if name.is_some_and(|name| names.contains(&name)) {
            edit.remove(&["spec", list, &index])?;
        }
    }
    Ok(())
}
