//! Certificates as the program takes them, in folders.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Writes a folder for each holder, all of one authority.
pub(crate) fn write(folder: &Path, holders: &[(&str, &str)]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    for (name, dns) in holders {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![(*dns).to_owned()]).unwrap();
        let signed = params.signed_by(&key, &issuer).unwrap();
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("authority.pem"), issuer.pem()).unwrap();
        fs::write(folder.join("identity.pem"), signed.pem()).unwrap();
        fs::write(folder.join("identity.key"), key.serialize_pem()).unwrap();
    }
}
