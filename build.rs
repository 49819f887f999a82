//! Tells the linker where libtorch is, so that the program and its tests run with no environment variable set, and compiles the
//! few lines of C++ between libtorch and the engine.
//!
//! Where the program looks at run time, in this order: `LD_LIBRARY_PATH` (so that a CUDA libtorch can stand in for the
//! CPU one), the libtorch of the build, and the two places where an installed program has it beside itself.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_WORKER").is_none() {
        return; // the client needs no libtorch
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        fail("LIBTORCH is not set. Run cargo inside the repository, where .cargo/config.toml sets it.");
    };
    let Ok(lib) = libtorch.join("lib").canonicalize() else {
        fail(&format!(
            "there is no libtorch at {}. Run `make setup`.",
            libtorch.display()
        ));
    };
    println!(
        "cargo:rerun-if-changed={}",
        libtorch.join("lib/libtorch_cpu.so").display()
    );
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // RUNPATH, not RPATH: LD_LIBRARY_PATH goes before it.
        println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
        for place in [&*lib.to_string_lossy(), "$ORIGIN/../lib/nats-rerank", "$ORIGIN/lib"] {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{place}");
        }
    }
    // Doc tests are linked without the arguments above. They find libtorch by LD_LIBRARY_PATH, to which cargo adds the
    // search paths that lie inside OUT_DIR.
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        fail("OUT_DIR is not set: run by something other than cargo?");
    };
    if let Err(error) = relink(&out.join("lib"), &lib) {
        fail(&format!(
            "cannot link {} to libtorch: {error}",
            out.join("lib").display()
        ));
    }
    println!("cargo:rustc-link-search=native={}", out.join("lib").display());
    #[cfg(feature = "worker")]
    compile_shim(&libtorch);
}

/// What `tch` does not bind. The same standard and the same form of strings as `tch` builds its own part with.
#[cfg(feature = "worker")]
fn compile_shim(libtorch: &Path) {
    const SHIM: &str = "src/model/engine/shim.cpp";
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let form_of_strings = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(libtorch.join("include"))
        .define("_GLIBCXX_USE_CXX11_ABI", form_of_strings.as_str())
        // Without it the headers ask for glog's.
        .define("GLOG_USE_GLOG_EXPORT", None)
        .file(SHIM)
        .compile("nats_rerank_shim");
}

#[cfg(unix)]
fn relink(link: &Path, target: &Path) -> std::io::Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link)?;
    }
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn relink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other(
        "the worker builds on Unix only; the client (--no-default-features --features client) builds anywhere",
    ))
}

fn fail(problem: &str) -> ! {
    println!("cargo:warning={problem}");
    eprintln!("{problem}");
    std::process::exit(1)
}
