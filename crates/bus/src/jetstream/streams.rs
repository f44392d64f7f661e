//! The streams that keep topics: made and brought up to date by whoever needs one first.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_nats::jetstream::{
    Context,
    context::{CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use guildhall_domain::{Error, Result, ports::bus::Retention};
use tokio::sync::Mutex;

use super::link::Address;
use crate::{
    DUPLICATE_WINDOW,
    wire::{PARTITIONS, stream_name, stream_subjects},
};

/// Copies of a stream in a cluster: one server may be lost and the next written to.
const REPLICAS_IN_A_CLUSTER: usize = 3;

pub(super) struct Streams {
    retention: Retention,
    partitions: [Partition; PARTITIONS as usize],
}

#[derive(Default)]
struct Partition {
    /// 0: not known to be there.
    replicas: AtomicUsize,
    making: Mutex<()>,
}

impl Streams {
    pub(super) fn new(retention: Retention) -> Self {
        Self { retention, partitions: Default::default() }
    }

    /// Sees to it that the partition's stream is there, and gives its number of replicas.
    pub(super) async fn ensure(&self, context: &Context, address: &Address, number: u8) -> Result<usize> {
        let partition = &self.partitions[usize::from(number)];
        let known = partition.replicas.load(Relaxed);
        if known > 0 {
            return Ok(known);
        }
        let _making = partition.making.lock().await;
        let known = partition.replicas.load(Relaxed);
        if known > 0 {
            return Ok(known);
        }
        // In a place of its own: every publish would carry the room for it otherwise.
        let replicas = Box::pin(self.make(context, address, number)).await?;
        partition.replicas.store(replicas, Relaxed);
        Ok(replicas)
    }

    /// The engine says that there is no such stream: it lost it, or somebody removed it.
    pub(super) fn forget(&self, number: u8) {
        self.partitions[usize::from(number)].replicas.store(0, Relaxed);
    }

    async fn make(&self, context: &Context, address: &Address, number: u8) -> Result<usize> {
        let in_a_cluster = context.client().server_info().cluster.is_some();
        let wanted = if in_a_cluster { REPLICAS_IN_A_CLUSTER } else { 1 };
        let there = match context.get_stream(stream_name(number)).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if is_missing(&error) => match self.create(context, number, wanted).await {
                Ok(replicas) => return Ok(replicas),
                // Another process was first, with other settings.
                Err(error) if is_there_already(&error) => context
                    .get_stream(stream_name(number))
                    .await
                    .map_err(|error| refused(address, &error))?
                    .cached_info()
                    .config
                    .clone(),
                Err(error) => return Err(refused(address, &error)),
            },
            Err(error) => return Err(refused(address, &error)),
        };
        // An operator may have asked for more than we would.
        let target = self.config(there.clone(), number, wanted.max(there.num_replicas));
        if target == there {
            return Ok(there.num_replicas);
        }
        match context.update_stream(&target).await {
            Ok(info) => Ok(info.config.num_replicas),
            Err(error) => {
                // What is there keeps events; that it keeps them otherwise than asked is for the operator to mend.
                tracing::warn!(stream = %there.name, %error, "stream {} cannot be brought up to date: {error}", there.name);
                Ok(there.num_replicas)
            }
        }
    }

    async fn create(&self, context: &Context, number: u8, wanted: usize) -> Result<usize, CreateStreamError> {
        let config = |replicas| self.config(Config::default(), number, replicas);
        match context.create_stream(config(wanted)).await {
            Ok(stream) => Ok(stream.cached_info().config.num_replicas),
            // A cluster of fewer than three servers, for now.
            Err(error) if wanted > 1 && lacks_servers(&error) => {
                context.create_stream(config(1)).await.map(|stream| stream.cached_info().config.num_replicas)
            }
            Err(error) => Err(error),
        }
    }

    /// What is ours to say about a stream; the rest stays as it is.
    fn config(&self, there: Config, number: u8, replicas: usize) -> Config {
        let bytes = self.retention.bytes / u64::from(PARTITIONS);
        Config {
            name: stream_name(number),
            subjects: vec![stream_subjects(number)],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            max_age: self.retention.age,
            max_bytes: i64::try_from(bytes).unwrap_or(i64::MAX).max(1),
            duplicate_window: DUPLICATE_WINDOW.min(self.retention.age),
            num_replicas: replicas,
            ..there
        }
    }
}

fn refused(address: &Address, error: &impl std::fmt::Display) -> Error {
    address
        .unavailable(format_args!("does not give its streams ({error}): start it with JetStream, and with room for it"))
}

fn is_missing(error: &GetStreamError) -> bool {
    use async_nats::jetstream::ErrorCode;
    matches!(error.kind(), GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_there_already(error: &CreateStreamError) -> bool {
    use async_nats::jetstream::ErrorCode;
    matches!(error.kind(), CreateStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

fn lacks_servers(error: &CreateStreamError) -> bool {
    use async_nats::jetstream::ErrorCode;
    let CreateStreamErrorKind::JetStream(error) = error.kind() else { return false };
    matches!(error.error_code(), ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED)
}
