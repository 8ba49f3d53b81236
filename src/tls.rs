//! Whom TLS believes, and in which words it says that it does not.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, Error, RootCertStore};

/// The authorities of the web, as this program was built with them. The machine's own are not asked.
pub fn web_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// Adds the authorities of a PEM file, which the setting `what` names.
///
/// # Errors
/// In words for people: the file cannot be read, holds no certificate, or one that is no authority.
pub fn add_roots(roots: &mut RootCertStore, what: &str, file: &Path) -> Result<(), String> {
    for certificate in certificates(what, file)? {
        roots.add(certificate).map_err(|error| unusable(what, file, error))?;
    }
    Ok(())
}

/// The certificates of a PEM file, which the setting `what` names.
///
/// # Errors
/// In words for people: the file cannot be read, or holds no certificate.
pub fn certificates(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(unusable(what, file, "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(what, file, error)),
    }
}

/// The words for a file of certificates or keys that is of no use.
pub fn unusable(what: &str, file: &Path, why: impl std::fmt::Display) -> String {
    format!("{what} {} cannot be used: {why}", file.display())
}

/// Why there is no TLS with `host`, for people: what is wrong with its certificate, and where else than
/// there the cause may lie.
pub fn in_words(host: &str, error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else { return format!("TLS with {host} fails: {error}") };
    let why = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "by this system's clock it has expired: is the clock right?".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "by this system's clock it is not valid yet: is the clock right?".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host name".to_owned()
        }
        CertificateError::UnknownIssuer => "no authority that is known has signed it; \
             where a proxy of yours reads TLS, ig.ca_file names its authority"
            .to_owned(),
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        other => other.to_string(),
    };
    format!("the certificate of {host} is not trusted: {why}")
}

/// What there is to mend where a server is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistrust {
    /// Its certificate is of another time than this system's clock shows.
    Time,
    /// Its certificate is for another name.
    Name,
    /// Nobody who is known vouches for it, or it is unsound.
    Certificate,
    /// TLS itself has failed.
    Protocol,
}

impl Mistrust {
    /// That of an error.
    pub fn of(error: &Error) -> Mistrust {
        let Error::InvalidCertificate(why) = error else { return Mistrust::Protocol };
        match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Mistrust::Time,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Mistrust::Name
            }
            _ => Mistrust::Certificate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let check = |why: CertificateError, expected: &str| {
            let told = in_words("h", &Error::InvalidCertificate(why));
            assert!(told.starts_with("the certificate of h is not trusted: "), "{told}");
            assert!(told.contains(expected), "{told}");
        };
        check(CertificateError::Expired, "expired: is the clock right?");
        check(CertificateError::NotValidYet, "not valid yet: is the clock right?");
        check(CertificateError::NotValidForName, "another host name");
        check(CertificateError::UnknownIssuer, "ig.ca_file");
        assert_eq!(in_words("h", &Error::DecryptError), "TLS with h fails: cannot decrypt peer's message");
    }

    #[test]
    fn a_file_that_holds_no_authority_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let add = || add_roots(&mut web_roots(), "ig.ca_file", &file).unwrap_err();
        let begins = format!("ig.ca_file {} cannot be used: ", file.display());
        assert!(add().starts_with(&begins), "{}", add());
        std::fs::write(&file, "-- nothing --").unwrap();
        assert_eq!(add(), format!("{begins}it holds no certificate"));
    }
}
