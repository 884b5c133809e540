//! One file per verb.

mod again;
mod attach;
mod cluster;
pub(crate) mod complete;
mod completion;
pub(crate) mod context;
mod describe;
pub(crate) mod doctor;
mod down;
mod events;
mod explain;
mod export;
mod help;
pub(crate) mod hosts;
mod kill;
mod launch;
mod login;
mod logs;
mod new;
mod projects;
mod quotas;
mod renew;
mod restart;
pub(crate) mod runners;
mod screen;
mod send;
mod smart;
mod snapshot;
pub(crate) mod status;
pub(crate) mod token;
mod up;
mod version;
mod wait;
mod watch;

use std::cell::{Cell, OnceCell};
use std::process::ExitCode;

use crate::args::{Action, Command, Globals, Output};
use crate::client::Client;
use crate::context::{Target, resolve};
use crate::errors::{Exit, Failure, Result};
use crate::local;
use crate::term;

/// What every command works with; nothing is read or dialled before it is needed.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) globals: Globals,
    target: OnceCell<Target>,
    client: OnceCell<Client>,
    own_signals: Cell<bool>,
}

impl App {
    /// An invocation with these global flags.
    pub(crate) fn new(globals: Globals) -> Self {
        Self { globals, target: OnceCell::new(), client: OnceCell::new(), own_signals: Cell::new(false) }
    }

    /// From now on the command itself answers Ctrl-C and SIGTERM.
    pub(crate) fn handles_signals(&self) {
        self.own_signals.set(true);
    }

    /// Whether signals are left to the command.
    pub(crate) fn leaves_signals(&self) -> bool {
        self.own_signals.get()
    }

    /// How to print.
    pub(crate) fn output(&self) -> Output {
        self.globals.output()
    }

    /// The cluster that is meant.
    ///
    /// # Errors
    /// When there is no such context, or it cannot be read.
    pub(crate) fn target(&self) -> Result<&Target> {
        match self.target.get() {
            Some(target) => Ok(target),
            None => {
                let target = resolve(&self.globals)?;
                Ok(self.target.get_or_init(|| target))
            }
        }
    }

    /// The cluster and the connection to it, if the command needed them.
    pub(crate) fn used(&self) -> Option<(&Target, &Client)> {
        self.target.get().zip(self.client.get())
    }

    /// The connection to it, not dialled before its first call.
    ///
    /// # Errors
    /// As [`Self::target`], or when its certificates do not parse.
    pub(crate) fn client(&self) -> Result<&Client> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => {
                let target = self.target()?;
                let client = Client::new(target.dialer()?, self.globals.timeout, self.globals.debug);
                let next = if target.name == local::CONTEXT { "stratavore up" } else { "" };
                Ok(self.client.get_or_init(|| client.with_unreached_next(next)))
            }
        }
    }
}

/// Runs what was asked for. The large ones are boxed, or every command would carry the largest one's state on its stack,
/// and touch the pages for it.
///
/// # Errors
/// The command's failure.
pub(crate) async fn run(app: &App, action: Action) -> Result<ExitCode> {
    if app.globals.god {
        return Err(Failure::usage("--god is not available in this release")
            .cause("overriding quotas and budgets needs permissions, which arrive with a later release")
            .next("stratavore quotas set PROJECT max-runners N"));
    }
    let command = match action {
        Action::Smart(smart) => return Box::pin(smart::run(app, smart)).await,
        Action::Command(command) => command,
    };
    let result = one(app, command).await;
    renew::if_due(app).await;
    result
}

async fn one(app: &App, command: Command) -> Result<ExitCode> {
    match command {
        Command::Launch(args) => Box::pin(launch::run(app, args)).await,
        Command::Runners(args) => runners::run(app, args).await,
        Command::Attach(args) => Box::pin(attach::run(app, args)).await,
        Command::Status(args) => status::run(app, args).await,
        Command::Logs(args) => Box::pin(logs::run(app, args)).await,
        Command::Kill(args) => Box::pin(kill::run(app, args)).await,
        Command::Wait(args) => Box::pin(wait::run(app, args)).await,
        Command::Send(args) => send::run(app, args).await,
        Command::Screen(args) => screen::run(app, args).await,
        Command::Restart(args) => Box::pin(restart::run(app, args)).await,
        Command::Describe(args) => describe::run(app, args).await,
        Command::Explain(args) => explain::run(app, args).await,
        Command::Events(args) => Box::pin(events::run(app, args)).await,
        Command::Watch(args) => Box::pin(watch::run(app, args)).await,
        Command::New(args) => new::run(app, args).await,
        Command::Projects(args) => projects::run(app, args).await,
        Command::Quotas(args) => quotas::run(app, args).await,
        Command::Hosts(args) => hosts::run(app, args).await,
        Command::Cluster(args) => cluster::run(app, args).await,
        Command::Token(args) => token::run(app, args).await,
        Command::Login(args) => Box::pin(login::run(app, args)).await,
        Command::Doctor => doctor::run(app).await,
        Command::Context(args) => context::run(app, args),
        Command::Completion(args) => completion::run(&args),
        Command::Version => version::run(app).await,
        Command::Help(args) => help::run(&args),
        Command::Up(args) => Box::pin(up::run(app, args)).await,
        Command::Down(args) => Box::pin(down::run(app, args)).await,
        Command::Supervise(args) => local::supervisor::run(&args.state).await,
        // The parser has turned it into Action::Smart.
        Command::Smart(_) => Err(Failure::new(Exit::Usage, "no command")),
    }
}

/// Asks before what cannot be taken back, when there is somebody to ask.
///
/// # Errors
/// Exit 130 when the answer is no.
pub(crate) fn sure(app: &App, yes: bool, question: &str) -> Result<()> {
    if yes || app.globals.no_input || !term::is_interactive() || smart::agreed(question)? {
        return Ok(());
    }
    Err(Failure::interrupted())
}

/// Success.
pub(crate) const OK: Result<ExitCode> = Ok(ExitCode::SUCCESS);
