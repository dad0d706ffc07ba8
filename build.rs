//! Migrations are embedded: a file added to the folder must cause a rebuild.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
