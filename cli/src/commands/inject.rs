//! `mesh inject` and `mesh uninject`: manifests in, manifests out, and one line on standard error for each object.
//!
//! By default a pod template gets the annotation by which the webhook knows it; with `--manual` the whole proxy, by the very
//! code that the webhook runs. Nothing is printed unless everything could be done.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use lacewing_controller::inject::{
    self as injection, Mesh, Outcome, Surroundings,
    edit::Edit,
    removal,
    settings::{ProxySettings, check},
};
use lacewing_crds::labels;
use serde_json::{Value, json};

use super::{CONTROLLER, Context, block_on};
use crate::{
    cli::inject::{Inject, Uninject},
    cluster::Cluster,
    failure::{Exit, Failure},
    manifest::{self, Document, tree::Node},
};

/// Where the API server is told of the webhook, and so of the roots.
const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lacewing-injector";
const TRUST_DOMAIN: &str = "cluster.local";
const NAMESPACE: &str = "lacewing";

/// What became of an object.
enum Done {
    /// What was done, in one word.
    Changed(&'static str, Vec<String>),
    Skipped(String),
}

/// What to do with each object.
enum Task {
    Annotate(BTreeMap<String, String>),
    Write { mesh: Box<Mesh>, config: BTreeMap<String, String> },
    Remove,
}

pub fn inject(context: &mut Context, options: &Inject) -> Result<Exit, Failure> {
    let mut config = BTreeMap::new();
    for (key, value) in &options.config {
        let key = format!("{}{key}", labels::config::PREFIX);
        check(&key, value).map_err(|why| Failure::new(Exit::Usage, format!("--config: {why}")))?;
        config.insert(key, value.clone());
    }
    let task = if options.manual {
        Task::Write { mesh: Box::new(mesh(context, options)?), config }
    } else {
        Task::Annotate(config)
    };
    run(context, manifest::read(&options.files)?, &task)
}

pub fn uninject(context: &mut Context, options: &Uninject) -> Result<Exit, Failure> {
    run(context, manifest::read(&options.files)?, &Task::Remove)
}

fn run(context: &mut Context, mut documents: Vec<Document>, task: &Task) -> Result<Exit, Failure> {
    let (mut said, mut wrong) = (Vec::new(), Vec::new());
    for document in &mut documents {
        let place = document.place();
        for root in objects(&mut document.root) {
            let name = name(&root.value());
            match task.act(root) {
                Ok(Done::Changed(what, warnings)) => {
                    document.changed = true;
                    said.push(format!("{name} {what}"));
                    said.extend(warnings.into_iter().map(|warning| format!("warning: {name}: {warning}")));
                }
                Ok(Done::Skipped(why)) => said.push(format!("{name} skipped: {why}")),
                Err(why) => wrong.push(
                    [place.as_str(), &name, &why]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect::<Vec<_>>()
                        .join(": "),
                ),
            }
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::error(wrong.join("\nerror: ")).hint("nothing was printed; mend this and try again"));
    }
    if said.is_empty() {
        return Err(Failure::new(Exit::NoData, "there is no object in what was given")
            .hint("has the command before the pipe printed anything? run it alone"));
    }
    for document in &mut documents {
        if !document.settle() {
            let why = "written anew, without its comments: what its anchors name has changed, or it cannot be edited in place";
            said.push(format!("warning: {}: {why}", document.place()));
        }
    }
    for line in &said {
        context.printer.note(line);
    }
    context.printer.data(&manifest::write(&documents))?;
    Ok(Exit::Ok)
}

/// The objects of a document: itself, or what is in the List.
fn objects(root: &mut Node) -> Vec<&mut Node> {
    let value = root.value();
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && value["items"].is_array();
    match (is_list, root) {
        (true, Node::Map(map)) => {
            let items = map.iter_mut().filter(|(key, _)| key.value() == "items").map(|(_, items)| items);
            items.filter_map(|items| if let Node::List(list) = items { Some(list) } else { None }).flatten().collect()
        }
        (_, root) => vec![root],
    }
}

/// `deployment "web"`; as much of it as is there.
fn name(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).map(|name| format!("{name:?}"));
    let kind = object["kind"].as_str().map(str::to_lowercase);
    kind.into_iter().chain(name).collect::<Vec<_>>().join(" ")
}

/// Where in an object of this kind its pods are described.
fn template(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Pod" => Some(&[]),
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => {
            Some(&["spec", "template"])
        }
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

impl Task {
    fn act(&self, root: &mut Node) -> Result<Done, String> {
        let value = root.value();
        let Some(kind) = value["kind"].as_str() else {
            return Err("this is no Kubernetes object: `kind` is missing".to_owned());
        };
        if kind == "Namespace" {
            return self.namespace(root);
        }
        let Some(path) = template(kind) else { return Ok(Done::Skipped("it makes no pods".to_owned())) };
        let template = root.get_mut(path).ok_or_else(|| format!("{} is missing", path.join(".")))?;
        if !template.value()["spec"]["containers"].is_array() {
            return Err(format!("{} is missing", [path, &["spec", "containers"]].concat().join(".")));
        }
        match self {
            Self::Annotate(config) => annotate(template, config),
            Self::Write { mesh, config } => write(template, config, mesh),
            Self::Remove => remove(template),
        }
    }

    fn namespace(&self, root: &mut Node) -> Result<Done, String> {
        match self {
            Self::Annotate(config) => {
                let before = root.value();
                if let Some(done) = refuses(&before)? {
                    return Ok(done);
                }
                let mut edit = Edit::new(before);
                if !mark(&mut edit, config)? {
                    return Ok(Done::Skipped("it is marked already".to_owned()));
                }
                let level = edit.value()["metadata"]["labels"][labels::POD_SECURITY].as_str().unwrap_or_default();
                let forbidden = matches!(level, "baseline" | "restricted").then(|| {
                    format!("{}: {level} forbids the init step: its pods will be refused", labels::POD_SECURITY)
                });
                finish(root, edit)?;
                Ok(Done::Changed("annotated", forbidden.into_iter().collect()))
            }
            Self::Write { .. } => Ok(Done::Skipped("--manual writes proxies into pods alone".to_owned())),
            Self::Remove => remove(root),
        }
    }
}

/// Marks a pod template, if the webhook would inject its pods.
fn annotate(template: &mut Node, config: &BTreeMap<String, String>) -> Result<Done, String> {
    let before = template.value();
    if removal::has_proxy(&before) {
        return Ok(Done::Skipped("it has its proxy already".to_owned()));
    }
    if let Some(done) = refuses(&before)? {
        return Ok(done);
    }
    let mut edit = Edit::new(before);
    let changed = mark(&mut edit, config)?;
    let none = BTreeMap::new();
    let mesh = Mesh {
        settings: ProxySettings::default(),
        bundle: String::new(),
        trust_domain: TRUST_DOMAIN.to_owned(),
        namespace: NAMESPACE.to_owned(),
    };
    match injection::inject(edit.value(), Surroundings { annotations: &none, labels: &none }, &mesh) {
        Outcome::Injected(_) if !changed => Ok(Done::Skipped("it is marked already".to_owned())),
        Outcome::Injected(injected) => {
            finish(template, edit)?;
            Ok(Done::Changed("injected", injected.warnings))
        }
        Outcome::Skipped(skip) => Ok(Done::Skipped(skip.to_string())),
        Outcome::Refused(why) => Err(why),
    }
}

/// Whether an object says that it does not want a proxy: then it gets no mark that says otherwise.
///
/// # Errors
/// It says something that is neither yes nor no, or that is not there yet.
fn refuses(object: &Value) -> Result<Option<Done>, String> {
    let Some(said) = object["metadata"]["annotations"][labels::INJECT].as_str() else { return Ok(None) };
    match said.parse() {
        Ok(labels::Inject::Enabled) => Ok(None),
        Ok(labels::Inject::Disabled) => Ok(Some(Done::Skipped(format!("{}: disabled", labels::INJECT)))),
        Ok(labels::Inject::Ingress) => Err(format!("{}: ingress is not there yet: write enabled", labels::INJECT)),
        Err(error) => Err(error.to_string()),
    }
}

/// Adds the annotations; whether there was anything to add.
fn mark(edit: &mut Edit, config: &BTreeMap<String, String>) -> Result<bool, String> {
    let wish = (labels::INJECT.to_owned(), "enabled".to_owned());
    let mut changed = false;
    for (key, value) in std::iter::once((&wish.0, &wish.1)).chain(config) {
        let path = ["metadata", "annotations", key];
        if edit.get(&path).and_then(Value::as_str) != Some(value) {
            if edit.get(&["metadata"]).is_none() {
                edit.add(&["metadata"], json!({}))?;
            }
            edit.add_below(&path, json!({}), value)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Writes the proxy into a pod template.
fn write(template: &mut Node, config: &BTreeMap<String, String>, mesh: &Mesh) -> Result<Done, String> {
    let before = template.value();
    if removal::has_proxy(&before) {
        return Ok(Done::Skipped("it has its proxy already; `mesh uninject` takes it out".to_owned()));
    }
    let mut edit = Edit::new(before);
    if edit.get(&["metadata"]).is_none() {
        edit.add(&["metadata"], json!({}))?;
    }
    for (key, value) in config {
        edit.add_below(&["metadata", "annotations", key], json!({}), value)?;
    }
    let wanted = BTreeMap::from([(labels::INJECT.to_owned(), "enabled".to_owned())]);
    let surroundings = Surroundings { annotations: &wanted, labels: &BTreeMap::new() };
    match injection::inject(edit.value(), surroundings, mesh) {
        Outcome::Injected(injected) => {
            finish(template, edit)?;
            template.apply(&injected.patch.0)?;
            faithful(template, &injected.pod)?;
            Ok(Done::Changed("injected", injected.warnings))
        }
        Outcome::Skipped(skip) => Ok(Done::Skipped(skip.to_string())),
        Outcome::Refused(why) => Err(why),
    }
}

/// Takes proxy, labels and annotations out of a pod template or Namespace; the wish to be left alone stays.
fn remove(node: &mut Node) -> Result<Done, String> {
    let before = node.value();
    let mut edit = Edit::new(before.clone());
    removal::remove(&mut edit)?;
    let annotations = edit.get(&["metadata", "annotations"]).and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in annotations.iter().filter(|(key, _)| labels::is_own(key)) {
        if key != labels::INJECT || value != "disabled" {
            edit.remove(&["metadata", "annotations", key])?;
        }
    }
    // Where it held nothing else, injection had made it.
    if edit.get(&["metadata"]) == Some(&json!({})) && before["metadata"] != json!({}) {
        edit.remove(&["metadata"])?;
    }
    if *edit.value() == before {
        return Ok(Done::Skipped("there is nothing of the mesh in it".to_owned()));
    }
    finish(node, edit)?;
    Ok(Done::Changed("uninjected", Vec::new()))
}

fn finish(node: &mut Node, edit: Edit) -> Result<(), String> {
    let (value, patch) = edit.finish();
    node.apply(&patch.0)?;
    faithful(node, &value)
}

/// What will be printed must be read as what was meant.
fn faithful(node: &Node, meant: &Value) -> Result<(), String> {
    let written = manifest::tree::parse(&node.to_string()).map(|read| read.value());
    match written {
        Ok(value) if value == *meant => Ok(()),
        _ => Err("this command cannot write it so that it is read the same; please report it with the file".to_owned()),
    }
}

/// What all proxies of `--manual` have in common: from the cluster, unless the roots were given.
fn mesh(context: &Context, options: &Inject) -> Result<Mesh, Failure> {
    let mut mesh = Mesh {
        settings: ProxySettings::default(),
        bundle: String::new(),
        trust_domain: TRUST_DOMAIN.to_owned(),
        namespace: NAMESPACE.to_owned(),
    };
    if let Some(file) = &options.trust_bundle {
        let read = std::fs::read_to_string(file);
        mesh.bundle = read.map_err(|error| Failure::error(format!("cannot read {}: {error}", file.display())))?;
        if !mesh.bundle.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Failure::error(format!("{} holds no certificate in PEM", file.display())));
        }
        return Ok(mesh);
    }
    let (webhook, controller) = block_on(async {
        let cluster = Cluster::connect(&context.flags).await?;
        Ok((cluster.find::<Value>(WEBHOOK).await?, cluster.find::<Value>(CONTROLLER).await?))
    })?;
    let not_installed = |what: &str| {
        Failure::new(Exit::NotInstalled, format!("{what}: the roots that proxies must trust are not known"))
            .hint("install the mesh first (`mesh install | kubectl apply -f -`), or give them with --trust-bundle FILE")
    };
    let webhook = webhook.ok_or_else(|| not_installed("the mesh's webhook is not in this cluster"))?;
    let bundle =
        webhook["webhooks"][0]["clientConfig"]["caBundle"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let bundle = bundle.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
    mesh.bundle = bundle.ok_or_else(|| not_installed("the controller has not registered its webhook yet"))?;
    let containers = controller.as_ref().and_then(|object| object["spec"]["template"]["spec"]["containers"].as_array());
    for variable in containers.into_iter().flatten().filter_map(|container| container["env"].as_array()).flatten() {
        match (variable["name"].as_str(), variable["value"].as_str()) {
            (Some("LACEWING_PROXY"), Some(json)) => mesh.settings = json.parse().map_err(Failure::error)?,
            (Some("LACEWING_TRUST_DOMAIN"), Some(name)) => name.clone_into(&mut mesh.trust_domain),
            _ => {}
        }
    }
    Ok(mesh)
}

#[cfg(test)]
mod tests;
