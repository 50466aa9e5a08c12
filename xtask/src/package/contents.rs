//! What is packaged and where it goes: read from `[package.metadata.deb]` of naikon-userspace, where cargo-deb reads it, too.

use super::PRODUCT;
use crate::shell::{cargo, output_of};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the manifest has the binary, wherever it was built; cargo-deb's convention.
const BINARY: &str = "target/release/naikon";

/// What the manifest says.
pub(super) struct Contents {
    pub(super) version: String,
    pub(super) maintainer: String,
    assets: Vec<Asset>,
}

struct Asset {
    source: String,
    /// Relative to the root of the file system; a folder ends in a slash.
    destination: String,
    mode: String,
}

/// One file of the package.
pub(super) struct Entry {
    /// Nothing for the binary, of which there are several.
    pub(super) source: Option<PathBuf>,
    pub(super) destination: String,
    pub(super) mode: String,
}

impl Contents {
    pub(super) fn read(workspace: &Path) -> Result<Self> {
        let metadata =
            output_of(cargo().current_dir(workspace).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: Value = serde_json::from_str(&metadata).context("reading what cargo says of the workspace")?;
        let packages = metadata.get("packages").and_then(Value::as_array);
        let product = packages
            .into_iter()
            .flatten()
            .find(|package| package.get("name").and_then(Value::as_str) == Some(PRODUCT))
            .with_context(|| format!("cargo knows no package {PRODUCT}"))?;
        let text = |pointer: &str| {
            let value = product.pointer(pointer).and_then(Value::as_str);
            value.map(str::to_owned).with_context(|| format!("the manifest of {PRODUCT} lacks {pointer}"))
        };
        let assets = product.pointer("/metadata/deb/assets").and_then(Value::as_array);
        let assets = assets.with_context(|| format!("the manifest of {PRODUCT} names no assets"))?;
        Ok(Contents {
            version: text("/version")?,
            maintainer: text("/metadata/deb/maintainer")?,
            assets: assets.iter().map(Asset::read).collect::<Result<_>>()?,
        })
    }

    /// Every file, in the order of the manifest; a pattern's files by their names.
    pub(super) fn entries(&self, workspace: &Path) -> Result<Vec<Entry>> {
        let package = workspace.join(PRODUCT);
        let mut entries = Vec::new();
        for Asset { source, destination, mode } in &self.assets {
            let sources = if source == BINARY { vec![None] } else { matching(&package, source)? };
            for source in sources {
                let named = source.as_deref().unwrap_or(Path::new(BINARY));
                let destination = match destination.strip_suffix('/') {
                    Some(folder) => {
                        let name = named.file_name().context("an asset has no name")?;
                        format!("{folder}/{}", name.to_string_lossy())
                    }
                    None => destination.clone(),
                };
                entries.push(Entry { source, destination, mode: mode.clone() });
            }
        }
        Ok(entries)
    }
}

impl Asset {
    fn read(value: &Value) -> Result<Self> {
        let word = |index: usize| value.get(index).and_then(Value::as_str).map(str::to_owned);
        match (word(0), word(1), word(2)) {
            (Some(source), Some(destination), Some(mode)) => Ok(Asset { source, destination, mode }),
            _ => bail!("an asset of {PRODUCT} is not [source, destination, mode]: {value}"),
        }
    }
}

/// The files that a source means: itself, or those of its folder that its last part, with one star, fits.
fn matching(package: &Path, source: &str) -> Result<Vec<Option<PathBuf>>> {
    let path = package.join(source);
    let (folder, name) = source.rsplit_once('/').unwrap_or(("", source));
    let Some((before, after)) = name.split_once('*') else {
        if !path.is_file() {
            bail!("{} is to be packaged and is missing", path.display());
        }
        return Ok(vec![Some(path)]);
    };
    let folder = package.join(folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_file() && name.starts_with(before) && name.ends_with(after) {
            found.push(Some(entry.path()));
        }
    }
    if found.is_empty() {
        bail!("nothing is like {}, which is to be packaged", path.display());
    }
    found.sort();
    Ok(found)
}
