//! A version of the protocol as its `.proto` file says it: messages to and from JSON, and the judgement whether another
//! version can still be spoken with (the rules of protobuf for changing message types).

use std::path::Path;

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, MessageDescriptor, ServiceDescriptor,
    prost::Message as _,
};
use serde_json::Value;

pub const PACKAGE: &str = "lacewing.control.v1";

#[derive(Clone)]
pub struct Schema(DescriptorPool);

impl Schema {
    pub fn read(path: &Path) -> Self {
        let include = path.parent().expect("a file has a folder");
        let set = protox::compile([path], [include]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(DescriptorPool::from_file_descriptor_set(set).expect("descriptors"))
    }

    /// Of messages without a package.
    pub fn parse(text: &str) -> Self {
        let name = format!("lacewing-schema-{}-{:?}", std::process::id(), std::thread::current().id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("test.proto");
        std::fs::write(&path, format!("syntax = \"proto3\";\n{text}")).expect("a file");
        let schema = Self::read(&path);
        std::fs::remove_dir_all(&folder).expect("the folder can go");
        schema
    }

    fn message(&self, name: &str) -> MessageDescriptor {
        let name = format!("{PACKAGE}.{name}");
        self.0.get_message_by_name(&name).unwrap_or_else(|| panic!("no message {name}"))
    }

    pub fn encode(&self, name: &str, value: &Value) -> Vec<u8> {
        let message = DynamicMessage::deserialize(self.message(name), value);
        message.unwrap_or_else(|error| panic!("{name} {value}: {error}")).encode_to_vec()
    }

    /// Fields that this version does not know are left out, as its programs do.
    pub fn decode(&self, name: &str, bytes: &[u8]) -> Value {
        let message = DynamicMessage::decode(self.message(name), bytes);
        let message = message.unwrap_or_else(|error| panic!("{name} {bytes:02x?}: {error}"));
        serde_json::to_value(&message).expect("JSON")
    }

    /// What of this version `new` no longer means the same by.
    pub fn broken_by(&self, new: &Self) -> Vec<String> {
        let mut broken = Vec::new();
        for message in self.0.all_messages() {
            match new.0.get_message_by_name(message.full_name()) {
                Some(now) => fields(&message, &now, &mut broken),
                None => broken.push(format!("message {} is gone", message.full_name())),
            }
        }
        for old in self.0.all_enums() {
            match new.0.get_enum_by_name(old.full_name()) {
                Some(now) => values(&old, &now, &mut broken),
                None => broken.push(format!("enum {} is gone", old.full_name())),
            }
        }
        for old in self.0.services() {
            match new.0.services().find(|now| now.full_name() == old.full_name()) {
                Some(now) => methods(&old, &now, &mut broken),
                None => broken.push(format!("service {} is gone", old.full_name())),
            }
        }
        broken
    }
}

fn fields(old: &MessageDescriptor, new: &MessageDescriptor, broken: &mut Vec<String>) {
    for field in old.fields() {
        let what = format!("{}: {} ({})", old.full_name(), field.name(), field.number());
        match new.get_field(field.number()) {
            Some(now) if shape(&now) != shape(&field) => {
                broken.push(format!("{what} was {:?} and is {:?}", shape(&field), shape(&now)));
            }
            Some(_) => {}
            None if new.reserved_ranges().any(|range| range.contains(&field.number())) => {}
            None => broken.push(format!("{what} is gone, and its number is not reserved")),
        }
    }
}

/// What must stay: type, how many, and with which other fields it shares a place (by the lowest number among them).
fn shape(field: &FieldDescriptor) -> (String, bool, Option<u32>) {
    let shared = field.containing_oneof().and_then(|one| one.fields().map(|field| field.number()).min());
    (format!("{:?}", field.kind()), field.is_list(), shared)
}

fn values(old: &EnumDescriptor, new: &EnumDescriptor, broken: &mut Vec<String>) {
    for value in old.values() {
        if new.get_value(value.number()).is_none_or(|now| now.name() != value.name()) {
            broken.push(format!("{}: {} ({}) is gone", old.full_name(), value.name(), value.number()));
        }
    }
}

fn methods(old: &ServiceDescriptor, new: &ServiceDescriptor, broken: &mut Vec<String>) {
    for method in old.methods() {
        let same = new.methods().any(|now| {
            (now.name(), now.is_client_streaming(), now.is_server_streaming())
                == (method.name(), method.is_client_streaming(), method.is_server_streaming())
                && now.input().full_name() == method.input().full_name()
                && now.output().full_name() == method.output().full_name()
        });
        if !same {
            broken.push(format!("{} is gone or takes something else", method.full_name()));
        }
    }
}
