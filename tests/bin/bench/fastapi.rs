//! A real application in Python: FastAPI on one worker of uvicorn, PostgreSQL, over TCP on loopback.
//!
//! Each request of `/items/N` takes one of asyncpg's two pooled connections for one query with a parameter and renders a model of a
//! few hundred bytes of JSON (`fastapi.py`). Everything lies in a temporary folder.

use spantap_tests::{
    http::Place,
    process::{Launch, Process},
    python,
    temp::{TempDir, free_port},
};

use crate::{
    load::wait_until_it_listens,
    postgres::{Postgres, USER},
};

const ENVIRONMENT: &str = "venv-bench";
const SCRIPT: &str = include_str!("fastapi.py");

/// The running application. It ends front to back.
pub struct FastApi {
    _uvicorn: Process,
    _postgres: Postgres,
    _folder: TempDir,
    address: String,
}

impl FastApi {
    /// Starts it with a fresh database.
    pub fn start(place: Place) -> Self {
        let folder = TempDir::new("fastapi");
        let postgres = Postgres::start(place, &folder);
        folder.write("main.py", SCRIPT);
        let port = free_port().to_string();
        // These are uvicorn's choice where they are installed; named, so that it does not start without them.
        let launch =
            Launch::new(python::program_of(ENVIRONMENT, "uvicorn")).args(["--loop", "uvloop", "--http", "httptools"]);
        let launch = launch.args(["--host", "127.0.0.1", "--port", &port, "--no-access-log", "--log-level", "warning"]);
        let launch = launch.arg("--app-dir").arg(folder.path()).arg("main:app");
        let database = format!("postgresql://{USER}@127.0.0.1:{}/{USER}", postgres.port);
        // What it says of errors is shown.
        let uvicorn = place.apply(launch.env("DATABASE_URL", database)).spawn();
        let address = format!("127.0.0.1:{port}");
        wait_until_it_listens(&address);
        Self { _uvicorn: uvicorn, _postgres: postgres, _folder: folder, address }
    }

    /// `ip:port` of uvicorn.
    pub fn address(&self) -> &str {
        &self.address
    }
}
