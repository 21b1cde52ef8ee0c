//! The `ottla` program.

fn main() -> std::process::ExitCode {
    ottla::cli::main()
}
