//! Certificates: a root and a leaf for the peers, and a leaf of the mesh's own authority for playing its client. P-256, as
//! the mesh makes them; a folder holds `ca.pem`, `leaf.pem` (with what is between), `leaf.key` and both in `both.pem`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lacewing_tests::net::ring;

const LEAF: &str = "
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out leaf.key
openssl req -new -key leaf.key -subj \"$SUBJECT\" -out leaf.csr
printf \"subjectAltName=$NAME\\nkeyUsage=critical,digitalSignature\\nextendedKeyUsage=serverAuth,clientAuth\\n\" > extensions
openssl x509 -req -in leaf.csr -CA issuer.pem -CAkey issuer.key -set_serial 7 -days 1 -extfile extensions -out leaf.pem
cat issuer.pem >> leaf.pem
cat leaf.pem leaf.key > both.pem
chmod 644 *";
const OWN_ROOT: &str = "
openssl ecparam -name prime256v1 -genkey -noout -out issuer.key
openssl req -x509 -new -key issuer.key -subj /CN=bench-root -days 2 -out ca.pem
cp ca.pem issuer.pem";
/// The controller's file: root, perhaps its key, issuer, issuer's key.
const MESH_ISSUER: &str = "
awk '/BEGIN CERTIFICATE/ { n++ } n == 1' authority.pem | awk '/BEGIN/ { n++ } n == 1' > ca.pem
awk '/BEGIN CERTIFICATE/ { n++ } n == 2' authority.pem > last
awk '/BEGIN/ { n++ } n == 1' last > issuer.pem
awk '/BEGIN/ { n++ } n == 2' last > issuer.key";

/// For the peers: everybody has the same name, and nobody else has it.
pub fn for_peers(dir: PathBuf) -> PathBuf {
    make(&dir, OWN_ROOT, "/CN=peer.bench", "DNS:peer.bench");
    dir
}

/// A workload of the mesh whose controller keeps its state in `controller`.
pub fn of_the_mesh(dir: PathBuf, controller: &Path, identity: &str) -> PathBuf {
    fs::create_dir_all(&dir).expect("/run is ours");
    fs::copy(controller.join("authority.pem"), dir.join("authority.pem")).expect("the controller has run");
    make(&dir, MESH_ISSUER, "/", &format!("critical,URI:{identity}"));
    dir
}

fn make(dir: &Path, issuer: &str, subject: &str, name: &str) {
    fs::create_dir_all(dir).expect("/run is ours");
    let script = format!("set -e\ncd {}\nSUBJECT='{subject}'\nNAME='{name}'\n{issuer}\n{LEAF}", dir.display());
    ring::run("sh", &["-c", &script], "");
}
