//! The thin binary around [`lacewing_proxy::run`]: settings come from the environment.

fn main() -> std::process::ExitCode {
    lacewing_proxy::run(&|name: &str| std::env::var(name).ok())
}
