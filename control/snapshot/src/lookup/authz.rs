//! Whether a peer with these URI SANs is admitted.

use crate::tables::Access;

/// A principal admits a peer whose certificate carries all of its URIs; any one principal suffices.
pub fn authorize<S: AsRef<str>>(access: &Access, peer_uris: &[S]) -> bool {
    match access {
        Access::Deny => false,
        Access::AnyOf(principals) => {
            principals.iter().any(|p| p.uris.iter().all(|wanted| peer_uris.iter().any(|have| have.as_ref() == wanted)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::authorize;
    use crate::tables::{Access, Principal};

    fn any_of(lists: &[&[&str]]) -> Access {
        Access::AnyOf(lists.iter().map(|l| Principal { uris: l.iter().map(|u| (*u).to_owned()).collect() }).collect())
    }

    #[test]
    fn a_principal_needs_all_its_uris_and_any_principal_suffices() {
        let access = any_of(&[&["spiffe://m/web", "kuma://version/v1"], &["spiffe://m/batch"]]);
        assert!(authorize(&access, &["spiffe://m/web", "kuma://version/v1", "kuma://a/b"]));
        assert!(authorize(&access, &["spiffe://m/batch"]));
        assert!(!authorize(&access, &["spiffe://m/web"]));
        assert!(!authorize(&access, &["spiffe://m/web2", "kuma://version/v1"]));
    }

    #[test]
    fn an_empty_principal_admits_everyone_and_no_principal_nobody() {
        assert!(authorize::<&str>(&any_of(&[&[]]), &[]));
        assert!(!authorize::<&str>(&any_of(&[]), &[]));
        assert!(!authorize(&Access::Deny, &["spiffe://m/web"]));
    }
}
