//! One binary, four names: reads the arguments, starts logging, hands over to the command and turns its outcome into an
//! exit code. The only place that exits; must not know how any command does its work.
#![forbid(unsafe_code)]

mod cli;
mod control_plane;
mod ctl;
mod demo;
mod failure;
mod install;
mod links;
mod manifests;
mod notify;
mod print;
mod run;
mod up;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command, Cp, Dp, Install, Uninstall};
use failure::Failure;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

#[global_allocator]
static HEAP: proxy::Heap = proxy::Heap;

fn main() -> ExitCode {
    let (arguments, warning) = cli::arguments(std::env::args_os().collect());
    if let Some(warning) = warning {
        print::note(&warning);
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match start_log(&cli).and_then(|()| command(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = print::out(&failure.printed);
            print::note(&format!("Error: {}", failure.text));
            ExitCode::from(failure.exit)
        }
    }
}

fn command(command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Cp(Cp::Run { config_file, log_file }) => {
            warn_of(&log_file.given());
            control_plane::run(config_file)
        }
        Command::Dp(Dp::Run(args)) => run::run(*args),
        Command::Dp(Dp::Wait(args)) => asynchronous(ctl::wait(args)),
        Command::Cp(Cp::Version { detailed })
        | Command::Dp(Dp::Version { detailed })
        | Command::Version { detailed } => print::out(&version(detailed)),
        Command::Apply(args) => asynchronous(ctl::apply(args)),
        Command::Get(args) => asynchronous(ctl::get(args)),
        Command::Delete(args) => asynchronous(ctl::delete(args)),
        Command::Inspect(args) => asynchronous(ctl::inspect(args)),
        Command::Generate(args) => asynchronous(ctl::generate(args)),
        Command::Config(args) => asynchronous(ctl::configure(args)),
        Command::Install(Install::TransparentProxy(args)) => install::run_install(&args).map_err(Into::into),
        Command::Install(Install::ControlPlane(args)) => {
            let manifests = manifests::control_plane(&args)?;
            warn_each(&manifests.warnings);
            print::out(&manifests.text)
        }
        Command::Uninstall(Uninstall::TransparentProxy(args)) => install::run_uninstall(&args).map_err(Into::into),
        Command::Links { dir } => print::out(&links::make(&dir)?),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
            print::out(&String::from_utf8_lossy(&script))
        }
    }
}

/// Runs a command that waits for the network, on this thread, and prints what it gives.
fn asynchronous(work: impl Future<Output = ctl::Done>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("starting the runtime: {e}"))?;
    print::out(&runtime.block_on(work)?)
}

impl From<install::InstallError> for Failure {
    fn from(error: install::InstallError) -> Self {
        Self { exit: error.exit_code, ..Self::failed(error) }
    }
}

fn warn_of(flags: &[(&str, &str)]) {
    for (flag, instead) in flags {
        print::note(&format!("Warning: {flag} has no effect here: {instead}"));
    }
}

fn warn_each(warnings: &[String]) {
    for warning in warnings {
        print::note(&format!("Warning: {warning}"));
    }
}

fn version(detailed: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if !detailed {
        return format!("weir {version}\n");
    }
    let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    format!(
        "Product:       weir\nVersion:       {version}\nResources:     Kuma 2.x\nPlatform:      {os}/{architecture}\n"
    )
}

/// The log goes to stderr. Level: `--log-level`, `WEIR_LOG`, `RUST_LOG`, or what suits the command.
fn start_log(cli: &Cli) -> Result<(), Failure> {
    let serves = matches!(cli.command, Command::Up(_) | Command::Cp(_) | Command::Dp(_) | Command::Demo(_));
    let rust_log = || std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    let asked = cli.log_level.clone().filter(|v| !v.is_empty()).or_else(rust_log);
    let level = asked.unwrap_or_else(|| if serves { "info" } else { "warn" }.to_owned());
    let refused = || Failure::usage(format!("log level {level} isn't known: use off, error, warn, info or debug"));
    // A word alone would be taken for the name of a module.
    let is_word = !level.contains(['=', ',']);
    if is_word && level.parse::<LevelFilter>().is_err() {
        return Err(refused());
    }
    let filter = EnvFilter::try_new(&level).map_err(|_| refused())?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Another log can only be there in a test.
    let _ = log.with_ansi(print::colours_wanted()).try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }
}
