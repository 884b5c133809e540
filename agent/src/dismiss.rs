//! Lets the shim of an ended runner go, and waits until it has gone.

use std::time::Duration;

use crate::runner::{Client, ClientError};

/// A shim that was told to go ends within milliseconds, or within ten seconds when a viewer is still behind.
const GONE_TIMEOUT: Duration = Duration::from_secs(12);

/// Ok when the shim is gone, also when it was gone before.
///
/// # Errors
/// As [`Client::reap`], and [`ClientError::Mute`] when it agrees but stays.
pub(crate) async fn dismiss(client: Client) -> Result<(), ClientError> {
    let mut watch = client.watch();
    match client.reap().await {
        Ok(()) => {}
        Err(ClientError::Gone) => return Ok(()),
        Err(error) => return Err(error),
    }
    let gone = async { while watch.changed().await.is_ok() {} };
    tokio::time::timeout(GONE_TIMEOUT, gone).await.map_err(|_| ClientError::Mute)
}
