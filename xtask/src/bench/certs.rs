//! Certificates of a run: one P-256 authority, a server and a client. Keys live in the run's folder and go with it.

use super::Res;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    pub(crate) fn make(folder: &Path) -> Res<Self> {
        let of = |error: rcgen::Error| format!("bench certificates: {error}");
        let key = KeyPair::generate().map_err(of)?;
        let mut authority = CertificateParams::new(Vec::new()).map_err(of)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "bench authority");
        let root = authority.self_signed(&key).map_err(of)?.pem();
        let issuer = Issuer::new(authority, key);
        let made = Self { folder: folder.to_owned() };
        made.write("ca.crt", &root)?;
        for name in ["web", "client"] {
            let names = vec!["h0.mesh".to_owned(), "*.mesh".to_owned()];
            let mut leaf = CertificateParams::new(names).map_err(of)?;
            leaf.distinguished_name.push(DnType::CommonName, name);
            let uri = format!("spiffe://default/{name}").try_into().map_err(of)?;
            leaf.subject_alt_names.push(SanType::URI(uri));
            let key = KeyPair::generate().map_err(of)?;
            let certificate = leaf.signed_by(&key, &issuer).map_err(of)?.pem();
            made.write(&format!("{name}.crt"), &certificate)?;
            made.write(&format!("{name}.key"), &key.serialize_pem())?;
            made.write(&format!("{name}.pem"), &(certificate + &key.serialize_pem()))?;
        }
        Ok(made)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(crate) fn read(&self, name: &str) -> Res<String> {
        fs::read_to_string(self.folder.join(name)).map_err(|error| format!("{name}: {error}"))
    }

    fn write(&self, name: &str, text: &str) -> Res<()> {
        fs::write(self.folder.join(name), text).map_err(|error| format!("{name}: {error}"))
    }
}
