//! `xeno template …`: makes templates, and looks at those that are there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use cowfs::guest::{Compression, GuestOptions, build_initramfs, default_busybox};
use cowfs::import::{Progress, Source};
use cowfs::template::{Boot, Digest, Store, StoreError, Summary, TemplateOptions};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format, Table, bytes, count};

/// Largest kernel image that is read.
const KERNEL_BYTES_MAX: u64 = 256 << 20;

/// Makes templates, and looks at those that are there.
#[derive(Subcommand)]
pub(crate) enum Template {
    /// Makes a template of a directory or a tar archive, and prints its digest.
    Import(Box<Import>),
    /// Lists the templates of a store.
    List(List),
    /// Shows one template.
    Show(Show),
    /// Reads everything a template consists of and compares it with its digests.
    Verify(Verify),
}

#[derive(Args)]
struct StoreArgs {
    /// Directory of the store.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/xenoslice/templates")]
    store: PathBuf,
}

#[derive(Args)]
pub(crate) struct Import {
    /// Directory or tar archive (plain, gzip or zstd) of the root file system.
    source: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
    /// Name for people.
    #[arg(long)]
    name: Option<String>,
    /// Kernel image that guests boot.
    #[arg(long, value_name = "FILE", requires = "modules")]
    kernel: Option<PathBuf>,
    /// Directory /lib/modules/VERSION of that kernel: the initramfs takes what it needs from there.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// How guests come up: a small init that runs one command, or the root's own /sbin/init.
    #[arg(long, value_enum, default_value_t = Init::Native)]
    init: Init,
    /// With --init small: the command, as a shell reads it.
    #[arg(long, value_name = "CMD", required_if_eq("init", "small"))]
    run: Option<String>,
    /// A statically linked busybox for the initramfs.
    #[arg(long, value_name = "FILE", default_value_os = default_busybox().as_os_str())]
    busybox: PathBuf,
    /// Words to add to the kernel's command line.
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    cmdline: String,
    /// Gives every file this owner and group instead of its own: `0:0`.
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    owner: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Init {
    /// The root's own.
    Native,
    /// Ours.
    Small,
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    store: StoreArgs,
    /// Form of the listing.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Args)]
pub(crate) struct Show {
    /// Digest, its first digits, or a name.
    template: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Form of the listing.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Args)]
pub(crate) struct Verify {
    /// Digest, its first digits, or a name; all of them where none is given.
    template: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(command: &Template) -> Outcome {
    match command {
        Template::Import(args) => import(args),
        Template::List(args) => list(args),
        Template::Show(args) => show(args),
        Template::Verify(args) => verify(args),
    }
}

fn import(args: &Import) -> Outcome {
    if args.init == Init::Native && args.run.is_some() {
        return Err(Failure::said("--run goes with --init small")
            .hint("the root's own init starts what it is set up to".to_owned()));
    }
    let mut options = TemplateOptions {
        name: args.name.clone(),
        command_line: args.cmdline.clone(),
        owner: args.owner,
        ..TemplateOptions::default()
    };
    if let (Some(kernel), Some(modules)) = (&args.kernel, &args.modules) {
        options.kernel = Some(read_kernel(kernel)?);
        let guest = GuestOptions {
            modules: modules.clone(),
            busybox: args.busybox.clone(),
            compression: Compression::default(),
        };
        let initramfs = build_initramfs(&guest).map_err(|error| {
            Failure::doing("make the initramfs", &error).hint(busybox_hint(&args.busybox))
        })?;
        options.initramfs = Some(initramfs);
        options.boot = Some(match (args.init, &args.run) {
            (Init::Small, Some(run)) => Boot::Small { run: run.clone() },
            (Init::Small | Init::Native, _) => Boot::Native {},
        });
    }
    let store = open(&args.store.store)?;
    let source = Source::at(&args.source)
        .map_err(|error| Failure::doing(format_args!("find {}", args.source.display()), &error))?;
    let bar = spinner();
    let mut show = |progress: &Progress| {
        bar.set_message(format!(
            "{} read, {}",
            bytes(progress.bytes),
            objects(progress.entries)
        ));
    };
    let imported = store.import(&source, &options, &mut show);
    bar.finish_and_clear();
    let report =
        imported.map_err(|error| Failure::doing(format_args!("import {}", args.source.display()), &error))?;
    output::note(&format!(
        "imported {}: {}; {} are new to the store, kernel and initramfs included",
        objects(report.entries),
        bytes(report.bytes),
        bytes(report.bytes_new),
    ));
    if report.skipped > 0 {
        output::note(&format!(
            "{} of the archive mean nothing in a layer and were left out",
            objects(report.skipped)
        ));
    }
    output::text(&format!("{}\n", report.digest))?;
    Ok(Exit::Done)
}

fn list(args: &List) -> Outcome {
    let store = existing(&args.store.store)?;
    let head = ["NAME", "DIGEST", "SIZE", "BOOTS", "FILES", "COMMAND LINE"];
    let mut table = Table::new(&head, 4, "the store has no templates");
    let mut values = Vec::new();
    let mut shown: Vec<_> = store
        .list()
        .map_err(failed)?
        .into_iter()
        .map(|digest| (digest, store.show(&digest)))
        .collect();
    // What people named comes first; a node also keeps layers of files that commits carry, which have no name.
    shown.sort_by_key(|(_, summary)| summary.as_ref().is_ok_and(|summary| summary.names.is_empty()));
    for (digest, summary) in shown {
        match summary {
            Ok(summary) => {
                let unnamed = summary.names.is_empty();
                table.row(vec![
                    if unnamed {
                        "(no name)".to_owned()
                    } else {
                        summary.names.join(", ")
                    },
                    short(&digest),
                    bytes(summary.content_bytes),
                    boots(&summary),
                    summary.nodes.to_string(),
                    summary.manifest.command_line.clone(),
                ]);
                values.push(value(&summary));
            }
            // One that is damaged must not hide the others.
            Err(error) => {
                let what = crate::failure::chain(&error);
                let unknown = || "?".to_owned();
                table.row(vec![
                    unknown(),
                    short(&digest),
                    unknown(),
                    what.clone(),
                    unknown(),
                    unknown(),
                ]);
                values.push(json!({ "digest": digest.to_string(), "error": what }));
            }
        }
    }
    output::listing(
        args.output,
        &table,
        &json!({ "formatVersion": 1, "templates": values }),
    )?;
    Ok(Exit::Done)
}

fn show(args: &Show) -> Outcome {
    let store = existing(&args.store.store)?;
    let digest = find(&store, &args.template)?;
    let summary = store.show(&digest).map_err(failed)?;
    let mut value = value(&summary);
    if let Some(object) = value.as_object_mut() {
        object.insert("formatVersion".to_owned(), json!(1));
    }
    let text = match args.output {
        Format::Json => return output::json(&value).map(|()| Exit::Done),
        Format::Yaml => return output::yaml(&value).map(|()| Exit::Done),
        Format::Table | Format::Wide => {
            let names = if summary.names.is_empty() {
                "(none)".to_owned()
            } else {
                summary.names.join(", ")
            };
            let cmdline = match summary.manifest.command_line.as_str() {
                "" => String::new(),
                words => format!("command line  {words}\n"),
            };
            format!(
                "digest        {digest}\nname          {names}\nboots         {}\n{cmdline}files         {}\n\
                 size          {} as a guest sees it, {} stored\n",
                boots(&summary),
                summary.nodes,
                bytes(summary.file_bytes),
                bytes(summary.content_bytes),
            )
        }
    };
    output::text(&text)?;
    Ok(Exit::Done)
}

fn verify(args: &Verify) -> Outcome {
    let store = existing(&args.store.store)?;
    let digests = match &args.template {
        Some(text) => vec![find(&store, text)?],
        None => store.list().map_err(failed)?,
    };
    let mut sound = true;
    for digest in &digests {
        let bar = spinner();
        let checked = store.verify(digest, &mut |read| {
            bar.set_message(format!("{} read", bytes(read)))
        });
        bar.finish_and_clear();
        let report = checked.map_err(failed)?;
        if report.is_sound() {
            let ok = output::paint(output::GOOD, "ok");
            output::styled(&format!(
                "{ok}       {digest}  {}, {}\n",
                objects(report.files),
                bytes(report.bytes)
            ))?;
            continue;
        }
        sound = false;
        output::styled(&format!("{}  {digest}\n", output::paint(output::BAD, "damaged")))?;
        for damage in &report.damage {
            let seen = damage
                .seen_as
                .as_ref()
                .map(|path| format!(" (/{})", String::from_utf8_lossy(path)));
            let line = format!(
                "  {}{}: {}",
                damage.path.display(),
                seen.unwrap_or_default(),
                damage.what
            );
            output::text(&(output::clean(&line) + "\n"))?;
        }
    }
    if sound {
        return Ok(Exit::Done);
    }
    output::note("import the template again from where it came from: what is damaged is then written anew");
    Ok(Exit::Failed)
}

/// The template that a digest, its first digits or a name leads to.
pub(super) fn find(store: &Store, text: &str) -> Outcome<Digest> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let all = store.list().map_err(failed)?;
    let by_digits = |digest: &&Digest| digits.len() >= 6 && digest.hex().starts_with(digits);
    let mut found: Vec<Digest> = all.iter().filter(by_digits).copied().collect();
    if found.is_empty() {
        found = store.named(text).map_err(failed)?;
    }
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::said(format!(
            "there is no template `{text}` in {}",
            store.root().display()
        ))
        .hint("`xeno template list` shows those that are there".to_owned())),
        several => Err(
            Failure::said(format!("{} templates are called `{text}`", several.len())).hint(format!(
                "say which: {}",
                several
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        ),
    }
}

fn value(summary: &Summary) -> Value {
    json!({
        "digest": summary.digest.to_string(),
        "names": summary.names,
        "bytes": summary.file_bytes,
        "storedBytes": summary.content_bytes,
        "files": summary.nodes,
        "contents": summary.contents,
        "bootable": bootable(summary),
        "boot": summary.manifest.boot,
        "commandLine": summary.manifest.command_line,
    })
}

fn bootable(summary: &Summary) -> bool {
    summary.manifest.kernel.is_some() && summary.manifest.initramfs.is_some()
}

fn boots(summary: &Summary) -> String {
    match (&summary.manifest.boot, bootable(summary)) {
        (_, false) => "no: a layer only".to_owned(),
        (Some(Boot::Small { run }), true) => format!("small init: {run}"),
        (Some(Boot::Native {}) | None, true) => "/sbin/init".to_owned(),
    }
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}

fn objects(entries: u64) -> String {
    count(usize::try_from(entries).unwrap_or(usize::MAX), "file", "files")
}

fn open(store: &Path) -> Outcome<Store> {
    Store::open(store)
        .map_err(|error| Failure::doing(format_args!("open the store {}", store.display()), &error))
}

/// A store to look at: one that is not there is an error, not an empty one.
pub(super) fn existing(store: &Path) -> Outcome<Store> {
    if !store.is_dir() {
        return Err(
            Failure::said(format!("there is no template store in {}", store.display()))
                .hint("name it with --store; `xeno template import` makes one".to_owned()),
        );
    }
    Ok(Store::open_read_only(store))
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn failed(error: StoreError) -> Failure {
    Failure::doing("read the template store", &error)
}

fn read_kernel(path: &Path) -> Outcome<Vec<u8>> {
    let failed =
        |error: std::io::Error| Failure::doing(format_args!("read the kernel {}", path.display()), &error);
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > KERNEL_BYTES_MAX {
        return Err(Failure::said(format!(
            "{} is too large for a kernel: {}",
            path.display(),
            bytes(length)
        )));
    }
    std::fs::read(path).map_err(failed)
}

fn busybox_hint(busybox: &Path) -> Option<String> {
    (!busybox.exists()).then(|| "apt-get install busybox-static, or name one with --busybox".to_owned())
}

/// Progress on standard error; says nothing where that is not a terminal.
fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once(':')
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    parsed.ok_or_else(|| "not UID:GID, as in 0:0".to_owned())
}
