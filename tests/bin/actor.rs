//! The tests' own clients and servers as a program: `actor NAME key=value …`.

fn main() {
    if !spantap_tests::actors::run(std::env::args().skip(1)) {
        eprintln!("usage: actor client|server|hog|transcript key=value …");
        std::process::exit(2);
    }
}
