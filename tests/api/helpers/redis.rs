//! A Redis of a test's own, to misbehave at will.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use deadpool_redis::redis::{self, Client, FromRedisValue, aio::MultiplexedConnection};
use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

pub struct PrivateRedis {
    process: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
    /// Where it listens with TLS, if it does.
    tls: Option<u16>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl PrivateRedis {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut redis = Self { process: None, port: free_port(), folder, tls: None };
        redis.come_back().await;
        redis
    }

    /// With a certificate for `localhost` that nobody vouches for. Answers the URL that asks for TLS, too.
    pub async fn start_with_tls() -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let tls = free_port();
        let mut redis = Self { process: None, port: free_port(), folder, tls: Some(tls) };
        redis.come_back().await;
        (redis, format!("rediss://localhost:{tls}"))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it, with nothing in it.
    pub async fn come_back(&mut self) {
        let mut command = Command::new("redis-server");
        if let Some(port) = self.tls {
            command
                .args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no"])
                .arg("--tls-cert-file")
                .arg(self.folder.path().join("cert.pem"))
                .arg("--tls-key-file")
                .arg(self.folder.path().join("key.pem"));
        }
        let started = command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.process = Some(started.expect("redis-server is installed; `make test` sees to it"));
        let answers = eventually(Duration::from_secs(10), || async {
            self.try_command::<String>(&["PING"]).await.is_ok()
        });
        assert!(answers.await, "Redis starts");
    }

    /// Kills it.
    pub fn go(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Connections are taken, and nothing is answered until [`Self::wake_up`].
    pub fn fall_asleep(&self) {
        self.signal(Signal::STOP);
    }

    pub fn wake_up(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// Sends one command, on a connection of its own.
    pub async fn command<T: FromRedisValue>(&self, parts: &[&str]) -> T {
        self.try_command(parts).await.unwrap()
    }

    async fn try_command<T: FromRedisValue>(&self, parts: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(parts[0]);
        for part in &parts[1..] {
            command.arg(part);
        }
        command.query_async(&mut self.connect().await?).await
    }

    /// Writes bytes under a key.
    pub async fn write(&self, key: &str, bytes: &[u8]) {
        let mut connection = self.connect().await.unwrap();
        redis::cmd("SET").arg(key).arg(bytes).exec_async(&mut connection).await.unwrap();
    }

    /// All keys, in order.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort_unstable();
        keys
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        Client::open(self.url())?.get_multiplexed_async_connection().await
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        // A process that sleeps can be killed, too.
        self.go();
    }
}
