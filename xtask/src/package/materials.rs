//! The bill of materials: which libraries, in which versions and under which licences, are in what is packaged. By
//! cargo-cyclonedx, once for each side, and both in one file: the kernel's object lies inside of the binary.
//!
//! It writes beside the manifests, so it works in a copy.

use super::{Maker, PRODUCT, foreign, remove_folder};
use crate::{
    kernel,
    setup::cargo_tool,
    shell::{output_of, run, say},
};
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const CYCLONEDX: &str = "0.5.9";
/// Its file beside each manifest.
const NAME: &str = "naikon-materials";

impl Maker<'_> {
    /// With `aarch64` also what the binary of 64-bit Arm is made of.
    pub(super) fn materials(&self, aarch64: bool) -> Result<PathBuf> {
        let tools = cargo_tool("cargo-cyclonedx", CYCLONEDX, &[], &["cyclonedx", "--version"])?;
        say("package", "making the bill of materials");
        let source = self.folder.join("source");
        remove_folder(&source)?;
        self.copy_source(&source)?;
        let host = format!("{ARCH}-unknown-linux-gnu");
        let mut bill = self.bill(&tools, &source, PRODUCT, &host)?;
        let of_kernel = self.bill(&tools, &source, "naikon-ebpf", kernel::target(cfg!(target_endian = "big")))?;
        let mut others = vec![of_kernel];
        let mut toolchains = self.toolchains()?;
        if aarch64 {
            others.push(self.bill(&tools, &source, PRODUCT, foreign::TARGET)?);
            toolchains.extend(foreign_toolchains()?);
        }
        for other in &others {
            for list in ["components", "dependencies"] {
                add(&mut bill, other, list)?;
            }
        }
        bill.pointer_mut("/components")
            .and_then(Value::as_array_mut)
            .context("the bill of materials lists no components")?
            .extend(toolchains);
        remove_folder(&source)?;
        // No folder of this machine.
        let text = serde_json::to_string_pretty(&bill)?.replace(&source.display().to_string(), "/naikon");
        let file = self.folder.join(format!("naikon-{}.cdx.json", self.contents.version));
        fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// Copies what the binaries are built from: what git knows, as it stands in the working tree, and new files.
    fn copy_source(&self, to: &Path) -> Result<()> {
        let files = ["ls-files", "-z", "--deduplicate", "--cached", "--others", "--exclude-standard"];
        let names = output_of(Command::new("git").current_dir(self.workspace).args(files))?;
        for name in names.split_terminator('\0') {
            let (from, to) = (self.workspace.join(name), to.join(name));
            // A removed file is known until the next commit.
            if !from.is_file() {
                continue;
            }
            let folder = to.parent().context("a file lies in a folder")?;
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
        Ok(())
    }

    /// What one package of the workspace is made of, for a target.
    fn bill(&self, tools: &Path, source: &Path, package: &str, target: &str) -> Result<Value> {
        run(Command::new(tools.join("cargo-cyclonedx"))
            .current_dir(source)
            .args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"])
            .args(["--override-filename", NAME, "--target", target, "--manifest-path"])
            .arg(Path::new(package).join("Cargo.toml"))
            .env("SOURCE_DATE_EPOCH", &self.epoch)
            .stdout(Stdio::null()))?;
        let file = source.join(package).join(format!("{NAME}.json"));
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
    }

    /// What is linked and in no manifest: Rust's own library on both sides, and in the archive's binary the C library.
    fn toolchains(&self) -> Result<Vec<Value>> {
        let ours = output_of(Command::new("rustc").current_dir(self.workspace).arg("--version"))?;
        let of_kernel = kernel::Toolchain::read(self.workspace).map_err(|message| anyhow!(message))?.version;
        let c_library = output_of(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
        Ok(vec![
            library("", "rust-std", version(&ours), "Rust's standard library, in the binary"),
            library("", "rust-core", version(&of_kernel), "Rust's core library, in the kernel object"),
            library(
                "",
                "glibc",
                version(&c_library),
                "the C library, in the binary of the .tar.gz; the .deb takes the system's",
            ),
        ])
    }
}

/// The same of the binary for 64-bit Arm, the .deb's too.
fn foreign_toolchains() -> Result<[Value; 2]> {
    let compiler = output_of(Command::new(foreign::RUSTC).arg("--version"))?;
    let c_library = foreign::version_of(foreign::C_LIBRARY.1)?;
    Ok([
        library("-aarch64", "rust-std", version(&compiler), "Rust's standard library, in the binary for 64-bit Arm"),
        library("-aarch64", "glibc", c_library, "the C library, in the binary for 64-bit Arm"),
    ])
}

/// The second word of `rustc 1.2.3 (...)` and of its like.
fn version(text: &str) -> String {
    text.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// `suffix` tells two of one name and version apart.
fn library(suffix: &str, name: &str, version: String, about: &str) -> Value {
    let reference = format!("{name}{suffix}@{version}");
    json!({"type": "library", "bom-ref": reference, "name": name, "version": version, "description": about})
}

/// Adds what is not in the list yet.
fn add(bill: &mut Value, other: &Value, list: &str) -> Result<()> {
    let items = bill.get_mut(list).and_then(Value::as_array_mut).with_context(|| format!("the bill has no {list}"))?;
    let reference = |item: &Value| {
        let text = item.get("bom-ref").or_else(|| item.get("ref")).and_then(Value::as_str);
        text.map(str::to_owned)
    };
    let mut known: BTreeSet<_> = items.iter().map(reference).collect();
    let others = other.get(list).and_then(Value::as_array).into_iter().flatten();
    items.extend(others.filter(|item| known.insert(reference(item))).cloned());
    Ok(())
}
