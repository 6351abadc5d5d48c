//! Owns that a hinted command works when it is pasted: it names the mesh by the options that this command line had.
//!
//! Hints are written without them, between backquotes or at the beginning of lines set in by two blanks; here they are put
//! in. `-n` is not: the hints have their own.

/// What follows the name of a program in every command that is hinted.
#[derive(Clone, Default)]
pub struct Typed {
    mesh: String,
    /// Its options for a cluster are those of `mesh`.
    kubectl: String,
    /// `mesh demo` knows no cluster.
    demo: String,
}

impl Typed {
    /// `--dir DIR`, which is about a demo.
    pub fn dir(dir: &str) -> Self {
        let mesh = format!("--dir {} ", word(dir));
        Self { demo: mesh.clone(), mesh, kubectl: String::new() }
    }

    /// Options with their values, which are about a cluster.
    pub fn cluster(options: &[(&str, String)]) -> Self {
        let mesh = options.iter().fold(String::new(), |all, (option, value)| all + option + " " + &word(value) + " ");
        Self { kubectl: mesh.clone(), mesh, demo: String::new() }
    }

    /// `text` with the options in each command between backquotes.
    pub fn put_into(&self, text: &str) -> String {
        let command = |part: &str| {
            let mesh = if part.starts_with("mesh demo") { &self.demo } else { &self.mesh };
            let part = part.strip_prefix("mesh ").map_or_else(|| part.to_owned(), |rest| format!("mesh {mesh}{rest}"));
            part.replace("kubectl ", &format!("kubectl {}", self.kubectl))
        };
        let of_line = |line: &str| match line.strip_prefix("  ") {
            Some(rest) if rest.starts_with("mesh ") || rest.starts_with("kubectl ") => format!("  {}", command(rest)),
            _ => line.to_owned(),
        };
        let outside = |part: &str| part.split('\n').map(of_line).collect::<Vec<_>>().join("\n");
        let parts = text.split('`').enumerate();
        let parts = parts.map(|(at, part)| if at % 2 == 1 { command(part) } else { outside(part) });
        parts.collect::<Vec<_>>().join("`")
    }
}

/// `text` as a shell reads it back as one word.
pub fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hinted_commands_name_the_mesh_that_was_asked_about() {
        let demo = Typed::dir("/x y");
        let context = [("--kubeconfig", "/k".to_owned()), ("--context", "dev".to_owned())];
        let cluster = Typed::cluster(&context);
        for (typed, hint, told) in [
            (&demo, "start one with `mesh demo`", "start one with `mesh --dir '/x y' demo`"),
            (&demo, "mesh it: `mesh stat -A` or `--dir DIR`", "mesh it: `mesh --dir '/x y' stat -A` or `--dir DIR`"),
            (&demo, "`kubectl get ns`", "`kubectl get ns`"),
            (&cluster, "a `mesh demo`", "a `mesh demo`"),
            (
                &cluster,
                "`mesh install | kubectl apply -f -`",
                "`mesh --kubeconfig /k --context dev install | kubectl --kubeconfig /k --context dev apply -f -`",
            ),
            (
                &cluster,
                "Next:\n\n  mesh check   wait\n  kubectl get ns\n  a mesh check",
                "Next:\n\n  mesh --kubeconfig /k --context dev check   wait\n  \
                 kubectl --kubeconfig /k --context dev get ns\n  a mesh check",
            ),
            (&Typed::default(), "`mesh stat` or `kubectl get ns`", "`mesh stat` or `kubectl get ns`"),
        ] {
            assert_eq!(typed.put_into(hint), told);
        }
    }

    #[test]
    fn words_are_read_back_by_a_shell() {
        for (text, quoted) in [("/tmp/a-b_1.c", "/tmp/a-b_1.c"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'")] {
            assert_eq!(word(text), quoted);
        }
    }
}
