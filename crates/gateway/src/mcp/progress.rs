//! Progress of a call that takes long, to a client that asked for it.

use futures::{FutureExt as _, future::BoxFuture};
use guildhall_domain::mail::Progress;
use rmcp::{
    Peer, RoleServer,
    model::{ProgressNotificationParam, ProgressToken},
    service::RequestContext,
};

use crate::requests::Listener;

pub(super) struct ToClient {
    peer: Peer<RoleServer>,
    token: ProgressToken,
}

impl ToClient {
    /// `None` when the call came without a token.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Option<Self> {
        Some(Self { peer: context.peer.clone(), token: context.meta.get_progress_token()? })
    }
}

impl Listener for ToClient {
    fn hear<'a>(&'a self, progress: &'a Progress) -> BoxFuture<'a, ()> {
        let mut param = ProgressNotificationParam::new(self.token.clone(), progress.progress);
        param.total = progress.total;
        param.message = progress.note.clone();
        async move {
            // A client that is gone misses nothing it could still use.
            let _ = self.peer.notify_progress(param).await;
        }
        .boxed()
    }
}
