use bedrock_sso_proxy::{
    cli::{self, Cli, Command},
    settings::{Need, Settings},
    telemetry, tls,
};
use clap::Parser;

#[actix_web::main]
async fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bedrock_proxy: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<std::process::ExitCode> {
    cli::no_core_dumps();
    tls::install_provider();
    let file = cli.config.as_deref();
    let command = cli.command.unwrap_or(Command::Serve);
    let load = |need| Settings::load(file, need);
    match command {
        Command::Serve => {
            let settings = load(Need::Service)?;
            let log = telemetry::init(&settings.logging)?;
            cli::serve::run(settings, file, &log).await?;
        }
        Command::Demo(args) => cli::demo::run(args).await?,
        Command::Init(args) => cli::init::run(args, &load(Need::Database)?.database).await?,
        Command::Migrate(args) => cli::migrate::run(args, &load(Need::Database)?.database).await?,
        Command::Job(args) => cli::job::run(args, &load(Need::Database)?).await?,
        Command::Seed(args) => cli::seed::run(args, &load(Need::Database)?).await?,
        Command::Settings(args) => return cli::settings::run(&args, file),
        Command::User(args) => {
            let settings = load(Need::Service)?;
            let _log = telemetry::init_command(&settings.logging)?;
            cli::user::run(args, &settings).await?;
        }
        Command::Key(args) => {
            let settings = load(Need::Service)?;
            let _log = telemetry::init_command(&settings.logging)?;
            cli::key::run(args, &settings).await?;
        }
        Command::Session(args) => {
            let settings = load(Need::Database)?;
            let _log = telemetry::init_command(&settings.logging)?;
            cli::session::run(args, &settings.database).await?;
        }
        Command::Audit(args) => {
            return cli::audit::run(args, &load(Need::Database)?.database).await;
        }
        Command::Health(args) => {
            return cli::health::run(args, &load(Need::Database)?.server).await;
        }
        Command::Login(args) => cli::login::run(args).await?,
        Command::Token(args) => cli::token::run(args).await?,
        Command::Logout(args) => cli::logout::run(args).await?,
    }
    Ok(std::process::ExitCode::SUCCESS)
}
