//! Which cluster is meant, and as whom. The context file is read once, and only by commands that need it.

use std::path::PathBuf;
use std::sync::Arc;

use stratavore_certs::{Credentials, tls};
use stratavore_settings::context::{self, Context, ContextError};
use stratavore_settings::dirs;

use crate::args::Globals;
use crate::client::Dialer;
use crate::errors::{Exit, Failure, Result};

/// A cluster, and who we are there.
#[derive(Debug)]
pub(crate) struct Target {
    /// Name of the context, or of its file.
    pub(crate) name: String,
    /// Where the context was read.
    pub(crate) file: PathBuf,
    pub(crate) context: Context,
    /// The context's endpoints, or those of `--cluster`.
    pub(crate) endpoints: Vec<String>,
}

impl Target {
    /// A target from a context that is already read.
    pub(crate) fn new(name: String, file: PathBuf, context: Context) -> Self {
        let endpoints = context.endpoints.clone();
        Self { name, file, context, endpoints }
    }

    /// Our identity and the CA we trust.
    ///
    /// # Errors
    /// When the context's certificates do not parse or do not belong together.
    pub(crate) fn credentials(&self) -> Result<Credentials> {
        let Context { ca, certificate, key, .. } = &self.context;
        Credentials::from_pem(ca, certificate, key).map_err(|error| {
            Failure::new(Exit::Permission, format!("cannot use context {}", self.name))
                .cause(format!("{error} (in {})", self.file.display()))
                .next("stratavore login with a new token, or stratavore context add")
        })
    }

    /// How to reach it.
    ///
    /// # Errors
    /// As [`Self::credentials`], or an endpoint that is none.
    pub(crate) fn dialer(&self) -> Result<Dialer> {
        if self.endpoints.is_empty() {
            return Err(Failure::usage(format!("context {} names no endpoint", self.name))
                .cause(format!("the list is empty in {}", self.file.display()))
                .next("give --cluster HOST:PORT"));
        }
        for endpoint in &self.endpoints {
            check_endpoint(endpoint)?;
        }
        let tls = tls::grpc_client(&self.credentials()?).map_err(|error| {
            Failure::new(Exit::Permission, format!("cannot use context {}", self.name))
                .cause(error.to_string())
        })?;
        Ok(Dialer::new(self.endpoints.clone(), Arc::clone(&tls)))
    }
}

/// The contexts file: `--config`, else the user's.
///
/// # Errors
/// When there is no home directory to look in.
pub(crate) fn contexts_file(globals: &Globals) -> Result<PathBuf> {
    match &globals.config {
        Some(file) => Ok(file.clone()),
        None => dirs::contexts_file().map_err(|error| {
            Failure::new(Exit::Generic, "cannot tell where contexts are kept")
                .cause(error.to_string())
                .next("set HOME or XDG_CONFIG_HOME, or give --config FILE")
        }),
    }
}

/// The cluster that the global flags mean.
///
/// # Errors
/// When there is no such context, or its file cannot be read.
pub(crate) fn resolve(globals: &Globals) -> Result<Target> {
    let file = contexts_file(globals)?;
    let resolved =
        context::resolve(globals.context.as_deref(), &file).map_err(|error| unresolved(globals, &error))?;
    let mut target = Target::new(resolved.name, resolved.path, resolved.context);
    if !globals.cluster.is_empty() {
        target.endpoints.clone_from(&globals.cluster);
    }
    Ok(target)
}

fn unresolved(globals: &Globals, error: &ContextError) -> Failure {
    let what = globals.context.as_ref().map(|name| format!("cannot use context {name}"));
    let unusable = |exit, next: String| {
        let what = what.clone().unwrap_or_else(|| "cannot use the contexts file".to_owned());
        Failure::new(exit, what).cause(chain(error)).next(next)
    };
    match error {
        ContextError::Exposed { path, .. } => {
            return unusable(Exit::Permission, format!("chmod 600 {}", path.display()));
        }
        ContextError::Malformed { path, .. } | ContextError::TooLarge { path } => {
            return unusable(Exit::Usage, format!("correct {}, or stratavore login anew", path.display()));
        }
        _ => {}
    }
    let failure = Failure::no_context(what.unwrap_or_else(|| "no cluster is chosen".to_owned()));
    let next = match &globals.context {
        Some(_) => "stratavore context list",
        None => "stratavore up (a cluster on this machine), or stratavore login (join one)",
    };
    failure.cause(chain(error)).next(next)
}

/// An error with its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// HOST:PORT, the host an address or a name.
///
/// # Errors
/// A usage failure that names the endpoint.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<()> {
    let port =
        endpoint.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(port)) if port > 0 => Ok(()),
        _ => Err(Failure::usage(format!("\"{endpoint}\" is no endpoint"))
            .cause("an endpoint is HOST:PORT, for example 127.0.0.1:50051")
            .next("give --cluster HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["127.0.0.1:50051", "[::1]:1", "node.example:50051"] {
            assert!(check_endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":1", "a:0", "a:x", "a:70000"] {
            assert_eq!(check_endpoint(bad).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
    }

    fn globals(dir: &std::path::Path, context: Option<&str>, cluster: &[&str]) -> Globals {
        Globals {
            config: Some(dir.join("contexts.yaml")),
            context: context.map(str::to_owned),
            cluster: cluster.iter().map(|c| (*c).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn written(dir: &std::path::Path) {
        let mut contexts = context::Contexts::load(&dir.join("contexts.yaml")).unwrap();
        for name in ["a", "b"] {
            let context = Context {
                cluster_id: "0123456789abcdef".to_owned(),
                user: "u".to_owned(),
                endpoints: vec![format!("{name}:1")],
                ca: String::new(),
                certificate: String::new(),
                key: String::new(),
            };
            contexts.put(name, context, name == "a").unwrap();
        }
        contexts.save(&dir.join("contexts.yaml")).unwrap();
    }

    #[test]
    fn the_current_context_a_named_one_and_other_endpoints() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        assert_eq!(resolve(&globals(dir.path(), None, &[])).unwrap().endpoints, ["a:1"]);
        assert_eq!(resolve(&globals(dir.path(), Some("b"), &[])).unwrap().endpoints, ["b:1"]);
        let elsewhere = resolve(&globals(dir.path(), Some("b"), &["x:2", "y:3"])).unwrap();
        assert_eq!(
            (elsewhere.name.as_str(), elsewhere.endpoints.as_slice()),
            ("b", &["x:2".to_owned(), "y:3".to_owned()][..])
        );
    }

    #[test]
    fn an_unknown_or_missing_context_is_said_with_a_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let none = resolve(&globals(dir.path(), None, &[])).unwrap_err();
        assert!(none.is_no_context());
        assert!(none.render().contains("next: stratavore up"), "{}", none.render());
        written(dir.path());
        let unknown = resolve(&globals(dir.path(), Some("c"), &[])).unwrap_err();
        assert_eq!(unknown.exit(), Exit::NotFound);
        assert!(unknown.render().contains("context c"), "{}", unknown.render());
    }
}
