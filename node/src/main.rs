//! `stratavored`: reads its arguments, runs one command, exits with a code that says why.

use std::process::ExitCode;

use clap::Parser;
use stratavore_node::args::{Args, Command, ConfigCommand, Shared};
use stratavore_node::config::Config;
use stratavore_node::exit::{Code, Failure};
use stratavore_node::server::Options;
use stratavore_node::{init, joining, recover, restore, run};

fn main() -> ExitCode {
    let args = Args::parse();
    match execute(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(code = failure.code as u8, "{}", failure.message);
            say(&failure.to_string());
            ExitCode::from(failure.code as u8)
        }
    }
}

fn execute(args: Args) -> Result<(), Failure> {
    let Args { command, config_check, shared } = args;
    if config_check {
        Config::load(shared.sources())?;
        return print("the configuration is valid\n");
    }
    match command {
        None => Err(Failure::new(Code::Usage, "no command was given", "see `stratavored --help`")),
        Some(Command::Version) => print(concat!("stratavored ", env!("CARGO_PKG_VERSION"), "\n")),
        Some(Command::Config { command: ConfigCommand::Show { source } }) => {
            print(&Config::load(shared.sources())?.show(source))
        }
        Some(Command::Init { data_dir, advertise }) => {
            let config = configured(&shared)?;
            let made = runtime()?.block_on(init::init(&data_dir, &advertise, &config))?;
            print(&format!(
                "cluster {} is ready\nrun: stratavored run --data-dir {}\nadmin context: {}\n",
                made.cluster_id,
                data_dir.display(),
                made.admin_file.display()
            ))
        }
        Some(Command::Join { data_dir, server, token_file, advertise }) => {
            let config = configured(&shared)?;
            let request = joining::Request { servers: server, token: token(&token_file)?, advertise };
            let joined = runtime()?.block_on(joining::join(&data_dir, request, &config))?;
            print(&format!(
                "joined cluster {} as node {}\nrun: stratavored run --data-dir {}\n",
                joined.cluster_id,
                joined.node_id,
                data_dir.display()
            ))
        }
        Some(Command::Run { data_dir, advertise }) => {
            let config = configured(&shared)?;
            runtime()?.block_on(run::run(Options { data_dir, config, advertise }))
        }
        Some(Command::Recover { data_dir, lost_quorum, .. }) => {
            configured(&shared)?;
            let recovered = runtime()?.block_on(recover::recover_accept_loss(&data_dir, lost_quorum))?;
            print(&recovered.to_string())
        }
        Some(Command::Restore { data_dir, from, advertise, removed_keys, incarnation }) => {
            let config = configured(&shared)?;
            let request =
                restore::Request { file: from, advertise, removed_keys, incarnation_min: incarnation };
            let restored = runtime()?.block_on(restore::restore(&data_dir, request, &config))?;
            print(&restored.to_string())
        }
    }
}

/// The configuration, with log output set up by it.
fn configured(shared: &Shared) -> Result<Config, Failure> {
    let config = Config::load(shared.sources())?.value;
    let mut log = config.log.clone();
    // openraft warns about its own normal life (a single voter's election); what matters reaches us as errors.
    if !log.level.contains("openraft") {
        log.level.push_str(",openraft=error");
    }
    stratavore_settings::log::init(&log)
        .map_err(|error| Failure::new(Code::Usage, error.to_string(), "correct log.level or log.format"))?;
    Ok(config)
}

fn token(file: &std::path::Path) -> Result<stratavore_certs::JoinToken, Failure> {
    stratavore_certs::JoinToken::read(file).map_err(|error| {
        Failure::new(
            Code::Usage,
            format!("cannot use the token in {}: {error}", file.display()),
            "make one with `stratavore token create --role node` and store it in a file, or pass `-` and type it",
        )
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::generic("cannot start the runtime", &error))
}

fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::generic("cannot print", &error))
}

fn say(text: &str) {
    use std::io::Write;
    // Nothing is left to be done when stderr is closed.
    writeln!(std::io::stderr(), "{text}").ok();
}
