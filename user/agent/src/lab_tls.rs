//! TLS in the lab: a certificate authority that is thrown away with it, and servers that it vouches for.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;

/// Days for which the certificates are good; the lab lives for minutes.
const DAYS: &str = "2";
/// The port of [`Lab::start_tls`].
pub(crate) const TLS_PORT: u16 = 443;

impl Lab {
    /// As [`Lab::start_nginx`], and on port 443 with TLS: with a certificate for `names`, it answers everything with
    /// the server name that the client asked for. `settings` are added to the block of that port. Returns the
    /// certificate of the authority.
    ///
    /// # Errors
    /// The certificates cannot be made, or nginx cannot be started.
    pub fn start_tls(&mut self, endpoint: &str, names: &[&str], settings: &str) -> Result<PathBuf> {
        let authority = self.certify(names)?;
        let dir = self.dir();
        let tls = format!(
            "location / {{ return 200 \"hello from nginx\\n\"; }} }}\n\
             server {{ listen {TLS_PORT} ssl; listen [::]:{TLS_PORT} ssl; ssl_certificate {dir}/server.pem;\n\
             ssl_certificate_key {dir}/server.key; ssl_protocols TLSv1.2 TLSv1.3; {settings}\n\
             location /bytes {{ root {dir}; }} location / {{ return 200 \"$ssl_server_name\\n\"; }}",
            dir = dir.display()
        );
        self.start_nginx(endpoint, Some(&tls))?;
        self.wait_until_listening(endpoint, TLS_PORT)?;
        Ok(authority)
    }

    /// Makes an authority (`ca.pem`) and a certificate for `names` (`server.pem`, `server.key`) in the lab's directory.
    /// The path of the authority's certificate.
    ///
    /// # Errors
    /// `openssl` is missing or failed.
    pub fn certify(&self, names: &[&str]) -> Result<PathBuf> {
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        fs::write(
            self.dir().join("names.ext"),
            format!("subjectAltName={}\n", names.join(",")),
        )?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        self.openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -days {DAYS} -subj /CN=lab-authority"
        ))?;
        self.openssl(&format!(
            "req {key} -keyout server.key -out server.csr -subj /CN=lab-server"
        ))?;
        self.openssl(&format!(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days {DAYS} -extfile names.ext"
        ))?;
        Ok(self.dir().join("ca.pem"))
    }

    fn openssl(&self, words: &str) -> Result<()> {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .output()
            .context("cannot run `openssl`; install openssl")?;
        ensure!(
            output.status.success(),
            "openssl {words}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}
