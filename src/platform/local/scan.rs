//! Reads the folder: the files that hold manifests, in the order of their names.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::snapshot::{FolderSnapshot, ManifestFile};

/// Larger than any manifest: what is larger is something else.
const MAX_BYTES: u64 = 8 << 20;
/// Standard input may be a whole rendered chart.
const MAX_INPUT: u64 = 64 << 20;

/// Whether a file of this name is read: `.yaml`, `.yml` and `.json`, but no hidden files, which editors leave behind.
pub fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    !name.starts_with('.') && matches!(extension, "yaml" | "yml" | "json")
}

/// Reads a folder (not the folders in it, as kubectl), or a single file.
pub fn read(folder: &Path) -> FolderSnapshot {
    FolderSnapshot { name: folder.display().to_string(), files: files(folder).map_err(|error| error.to_string()) }
}

/// Reads what is piped in, as one file.
pub fn read_input(input: impl Read) -> FolderSnapshot {
    let name = "standard input".to_owned();
    let text = input_text(input).map_err(|error| error.to_string());
    FolderSnapshot { files: Ok(vec![ManifestFile { name: name.clone(), text }]), name }
}

fn input_text(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    if input.take(MAX_INPUT + 1).read_to_string(&mut text)? as u64 > MAX_INPUT {
        return Err(io::Error::other(format!("it has more than {} MiB", MAX_INPUT >> 20)));
    }
    Ok(text)
}

fn files(folder: &Path) -> io::Result<Vec<ManifestFile>> {
    if fs::metadata(folder)?.is_file() {
        return Ok(vec![file(folder)]);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.iter().map(|path| file(path)).collect())
}

fn file(path: &Path) -> ManifestFile {
    let name = path.file_name().unwrap_or(path.as_os_str());
    ManifestFile { name: name.to_string_lossy().into_owned(), text: text(path).map_err(|error| error.to_string()) }
}

fn text(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > MAX_BYTES {
        let message = format!("it has more than {} MiB", MAX_BYTES >> 20);
        return Err(io::Error::other(message));
    }
    fs::read_to_string(path)
}
