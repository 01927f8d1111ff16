//! The repository that the demonstration pushes, step by step.

use crate::lab::{LabResult, Parts, repository::Repository};

/// First host port of the slice: sliver N is at this plus N.
pub const PORT: u16 = 18080;

/// How the slice looks at one step.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// A word that only this commit's page holds.
    pub nonce: &'a str,
    /// Where the slivers run, in order.
    pub nodes: &'a [&'a str],
    /// `running` or `stopped`.
    pub state: &'a str,
    /// Memory of each guest.
    pub memory: &'a str,
}

/// Prints what a guest sees of itself.
const GUEST_SCRIPT: &str = r#"#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
echo "boot_id $(cat /proc/sys/kernel/random/boot_id)"
echo "uptime $(cut -d' ' -f1 /proc/uptime)"
echo "hostname $(cat /proc/sys/kernel/hostname)"
echo "-- /proc/mounts"
cat /proc/mounts
"#;

/// Appends a line to a file and answers only once it has been synced. Who got no answer in time asks again, so a line that is
/// there already is only synced, and whoever asks meanwhile waits: what is written once is there once, however slow the disk.
const LEDGER_SCRIPT: &str = r#"#!/bin/sh
ledger=/var/tmp/ledger
printf 'Content-Type: text/plain\r\n\r\n'
case $QUERY_STRING in
  '') cat "$ledger" ;;
  *)
    exec 9>>"$ledger" && flock 9 || exit 1
    grep -qxF -e "$QUERY_STRING" "$ledger" || echo "$QUERY_STRING" >&9 || exit 1
    sync "$ledger" && echo committed
    ;;
esac
"#;

/// Writes the manifests that stay as they are.
///
/// # Errors
/// [`crate::lab::LabError::Io`] naming the path.
pub fn write_fleet(repository: &Repository, parts: &Parts) -> LabResult<()> {
    repository.write(
        "fleet.yaml",
        "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: { name: demo }\nspec:\n  deleteBudget: { slivers: 2, window: 1h }\n",
    )?;
    write_nodes(repository, &["cam-01", "nyc-02"])?;
    repository.write(
        "templates/debian-web.yaml",
        &format!(
            "apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: debian-web }}\nspec:\n  channels:\n    \
             current: {}\n  sources:\n    - file://{}\n",
            parts.template,
            parts.published.display()
        ),
    )?;
    repository.write_executable("overlays/cgi/guest", GUEST_SCRIPT)?;
    repository.write_executable("overlays/cgi/ledger", LEDGER_SCRIPT)
}

/// Writes two sites and these nodes, each at the site that its name begins with.
///
/// # Errors
/// [`crate::lab::LabError::Io`] naming the path.
pub fn write_nodes(repository: &Repository, nodes: &[&str]) -> LabResult<()> {
    for (site, region, short) in [("cambridge", "eu", "cam"), ("new-york", "us", "nyc")] {
        let mut text = format!(
            "apiVersion: xenoslice/v1\nkind: Site\nmetadata: {{ name: {site} }}\nspec: {{ region: {region} }}\n"
        );
        for node in nodes.iter().filter(|node| node.starts_with(short)) {
            text += &format!(
                "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {node} }}\nspec:\n  site: {site}\n  \
                 hypervisor: qemu\n  capacity: {{ memory: 1GiB, vcpus: 2 }}\n  reserved: {{ memory: 256MiB }}\n"
            );
        }
        repository.write(&format!("sites/{site}.yaml"), &text)?;
    }
    Ok(())
}

/// Writes the slice and its page.
///
/// # Errors
/// [`crate::lab::LabError::Io`] naming the path.
pub fn write_slice(repository: &Repository, step: &Step<'_>) -> LabResult<()> {
    write_page(repository, step)?;
    repository.write("slices/web.yaml", &slice(step))
}

/// Writes the page of the slice.
///
/// # Errors
/// [`crate::lab::LabError::Io`] naming the path.
pub fn write_page(repository: &Repository, step: &Step<'_>) -> LabResult<()> {
    repository.write(
        "overlays/web/index.html",
        &format!(
            "<!doctype html>\n<title>Xenoslice</title>\n<h1>It runs because somebody pushed</h1>\n<p>{}</p>\n\
             <p><a href=\"/cgi-bin/guest\">What the guest sees of itself</a></p>\n",
            step.nonce
        ),
    )
}

/// The slice's manifest.
#[must_use]
pub fn slice(step: &Step<'_>) -> String {
    format!(
        "apiVersion: xenoslice/v1
kind: Slice
metadata: {{ name: web }}
spec:
  image:
    kernel: debian-web/current
    mounts:
      - path: /
        layers:                                   # nearest the guest first
          - files:
              /var/www/html/index.html: {{ from: overlays/web/index.html }}
              /usr/lib/cgi-bin: {{ from: overlays/cgi }}
              /etc/apache2/mods-enabled/cgi.load:
                text: |
                  LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so
          - template: debian-web/current
        writable: local
  resources: {{ vcpus: 1, memory: {}, disk: 1GiB }}
  placement: {{ nodes: [{}] }}
  state: {}
  rollout: {{ canary: 1, waves: [2, 100%], bake: 2s }} # one goes first, then another, then all
  publish: [{{ guest: 80, host: {PORT} }}]         # sliver N is at this port plus N
  health: {{ http: {{ port: 80, path: /, expect: 200 }}, interval: 1s, threshold: 1, grace: 180s }}
",
        step.memory,
        step.nodes.join(", "),
        step.state,
    )
}

/// The slice's manifest with a mistake that no validation can find: its server answers with an error, always. Nobody is to wait
/// for it as long as for a good one.
#[must_use]
pub fn broken(step: &Step<'_>) -> String {
    let more = "              /etc/apache2/conf-enabled/tidy.conf: { text: \"Redirect 503 /\\n\" }\n          - template:";
    slice(step)
        .replacen("          - template:", more, 1)
        .replace("grace: 180s", "grace: 45s")
}
