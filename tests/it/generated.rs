//! Owns the generated protobuf code: makes it from the `.proto` files in memory and compares it with what is
//! checked in. `LACEWING_GEN=1` (or `just gen`) writes it instead. No protoc: protox compiles the files.

use std::path::{Path, PathBuf};

struct Generated {
    proto: &'static str,
    /// Where the code goes, from the repository's root.
    code: &'static str,
    /// The file name that the generator derives from the protobuf package.
    emitted: &'static str,
    /// What turns messages into bytes.
    codec: &'static str,
}

const GENERATED: &[Generated] = &[
    Generated {
        proto: "shared/proto/proto/control.proto",
        code: "shared/proto/src/control.rs",
        emitted: "lacewing.control.v1.rs",
        codec: "crate::codec::SmallCodec",
    },
    Generated {
        proto: "cli/src/demo/emoji.proto",
        code: "cli/src/demo/emoji.rs",
        emitted: "lacewing.demo.v1.rs",
        codec: "tonic_prost::ProstCodec",
    },
];

const HEADER: &str = "// Generated from the .proto file of this name by `just gen`. Do not edit.\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the repository").to_owned()
}

fn generate(item: &Generated) -> String {
    let path = root().join(item.proto);
    let include = path.parent().expect("a file has a folder");
    let set = protox::compile([&path], [include]).expect("the .proto file compiles");
    let out = std::env::temp_dir().join(format!("lacewing-gen-{}-{}", std::process::id(), item.emitted));
    std::fs::create_dir_all(&out).expect("temporary folder");
    let builder = tonic_prost_build::configure().out_dir(&out).build_transport(false).codec_path(item.codec);
    builder.compile_fds(set).expect("code generation");
    let code = std::fs::read_to_string(out.join(item.emitted)).expect("generated file");
    std::fs::remove_dir_all(&out).expect("remove temporary folder");
    format!("{HEADER}{code}")
}

#[test]
fn generated_code_is_fresh() {
    let write = std::env::var_os("LACEWING_GEN").is_some();
    for item in GENERATED {
        let fresh = generate(item);
        let path = root().join(item.code);
        if write {
            std::fs::write(&path, &fresh).expect("write generated code");
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == fresh, "{} is stale: run `just gen` and commit the result", item.code);
    }
}
