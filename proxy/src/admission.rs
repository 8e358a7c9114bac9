//! Who was admitted to a live connection, and whether the row in force still admits them: a connection outlives many
//! snapshots. Must not know streams.

use crate::error::{ConnError, Reason};
use crate::worker::Worker;
use snapshot::{InboundTls, Role, Snapshot, SniTarget, lookup};
use std::net::SocketAddr;

/// What a connection was admitted to.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Key of an inbound's row.
    Inbound(SocketAddr),
    /// An external service behind this egress.
    Sni(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub place: Place,
    /// The peer's identities; none without mTLS.
    pub peers: Option<Vec<String>>,
}

impl Admission {
    /// `None` when the row is gone: what it admitted may end in peace.
    pub(crate) fn holds(&self, snapshot: &Snapshot) -> Option<bool> {
        let (tls, permission) = self.rule(snapshot)?;
        Some(match &self.peers {
            Some(peers) => tls == InboundTls::Off || lookup::authorize(snapshot.access(permission), peers),
            None => tls != InboundTls::Strict,
        })
    }

    fn rule<'a>(&self, snapshot: &'a Snapshot) -> Option<(InboundTls, &'a str)> {
        match &self.place {
            Place::Inbound(address) => match &snapshot.listener(*address)?.row.role {
                Role::Inbound { tls, permission, .. } => Some((*tls, permission)),
                _ => None,
            },
            Place::Sni(name) => match &snapshot.sni(name)?.row.target {
                SniTarget::Terminate { permission, .. } => Some((InboundTls::Strict, permission)),
                SniTarget::Passthrough { .. } => None,
            },
        }
    }

    /// Ends when a snapshot came into force that doesn't admit the peer.
    pub(crate) async fn revoked(&self, worker: &Worker) -> ConnError {
        let mut published = worker.shared.published.clone();
        while published.changed().await.is_ok() {
            let snapshot = worker.snapshot();
            if self.holds(&snapshot) == Some(false) {
                return self.denial(&snapshot);
            }
        }
        std::future::pending().await
    }

    fn denial(&self, snapshot: &Snapshot) -> ConnError {
        let row = self.rule(snapshot).and_then(|(_, name)| snapshot.permission(name));
        let by = row.map_or_else(|| "no permission".to_owned(), |row| row.origin.to_string());
        let detail = match &self.peers {
            Some(peers) => format!("{by} doesn't admit {} any more; its live connection is reset", peers.join(" ")),
            None => "the inbound takes only mTLS now; a live connection without it is reset".to_owned(),
        };
        ConnError::new(Reason::Denied, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Place};
    use snapshot::{
        Access, Generation, InboundTls, ListenerRow, Origin, PermissionRow, Principal, Protocol, Role, Snapshot, Tables,
    };
    use std::sync::Arc;

    const AT: &str = "10.0.0.1:80";

    fn snapshot(tls: InboundTls, admitted: &[&str]) -> Snapshot {
        let principal = |uri: &&str| Principal { uris: vec![(*uri).to_owned()] };
        let permission = PermissionRow {
            name: "p".into(),
            access: Access::AnyOf(admitted.iter().map(principal).collect()),
            origin: Origin::default(),
        };
        let role = Role::Inbound {
            captured: false,
            service: "web".into(),
            protocol: Protocol::Tcp,
            app: "127.0.0.1:80".parse().unwrap(),
            tls,
            permission: "p".into(),
        };
        let row = ListenerRow { address: AT.parse().unwrap(), role, origin: Origin::default() };
        let tables =
            Tables { listeners: vec![Arc::new(row)], permissions: vec![Arc::new(permission)], ..Tables::default() };
        Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap()
    }

    fn of(peer: Option<&str>) -> Admission {
        let peers = peer.map(|p| vec![p.to_owned()]);
        Admission { place: Place::Inbound(AT.parse().unwrap()), peers }
    }

    #[test]
    fn a_peer_is_admitted_as_long_as_the_permission_in_force_names_it() {
        let web = of(Some("spiffe://m/web"));
        assert_eq!(web.holds(&snapshot(InboundTls::Strict, &["spiffe://m/web"])), Some(true));
        assert_eq!(web.holds(&snapshot(InboundTls::Strict, &["spiffe://m/other"])), Some(false));
        assert_eq!(web.holds(&snapshot(InboundTls::Strict, &[])), Some(false));
    }

    #[test]
    fn plain_text_is_admitted_until_the_inbound_is_strict() {
        assert_eq!(of(None).holds(&snapshot(InboundTls::Off, &[])), Some(true));
        assert_eq!(of(None).holds(&snapshot(InboundTls::Permissive, &[])), Some(true));
        assert_eq!(of(None).holds(&snapshot(InboundTls::Strict, &[])), Some(false));
    }

    #[test]
    fn a_row_that_is_gone_judges_nobody() {
        assert_eq!(of(Some("spiffe://m/web")).holds(&Snapshot::default()), None);
    }
}
