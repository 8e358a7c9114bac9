//! Who is who: a mesh's certificate authority, workload certificates, tokens and the keys that sign them.
//! Nothing here stores anything: callers load and keep the material.

mod ca;
mod keys;
mod server;
mod tokens;

pub use ca::{Ca, CaError, CaMaterial, Identity, IssuedCert};
pub use keys::{generate_signing_key, public_key_pem, random_bytes, uuid};
pub use server::{ServerMaterial, server_material};
pub use tokens::{
    DataplaneClaims, KeyRing, TOKEN_BYTES_MAX, TokenError, TokenScope, UserClaims, ZoneClaims, check_dataplane,
    check_zone,
};
