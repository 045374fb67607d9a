//! Certificates as files.

use std::path::Path;

use backstop::{Error, ErrorKind, Result, TcpClient, TcpClientBuilder, TlsAuthority, TlsIdentity};

use crate::wire_arguments::ServerArguments;

fn read(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    std::fs::read(&path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::InvalidInput,
        };
        let sentence = format!("{} can't be read", path.display());
        Error::new(kind, sentence).with_source(error)
    })
}

/// What a folder of certificates holds: whom its owner trusts, and who it is.
pub fn certificates(folder: &Path) -> Result<(TlsAuthority, TlsIdentity)> {
    let within = |error: Error| error.within(folder.display());
    let authority = TlsAuthority::from_pem(&read(folder, "authority.pem")?).map_err(within)?;
    let chain = read(folder, "identity.pem")?;
    let identity = TlsIdentity::from_pem(&chain, &read(folder, "identity.key")?);
    Ok((authority, identity.map_err(within)?))
}

/// A client of the protection server that is named, to be built.
pub fn client(arguments: &ServerArguments) -> Result<TcpClientBuilder> {
    let (authority, identity) = certificates(&arguments.certificates)?;
    let servers = arguments.servers.clone();
    Ok(TcpClient::builder(servers, &identity, &authority))
}
