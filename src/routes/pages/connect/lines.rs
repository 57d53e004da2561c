//! Ready lines for people's tools, with the address of this service and a model of theirs. README.md has the same ones; a
//! test holds the two against each other.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands for a key where there is none.
pub const SOME_KEY: &str = "SSOK_…";
/// A model's id in a path is one segment.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// What the lines are about.
#[derive(Debug, Clone)]
pub struct Lines {
    /// The address of this service.
    pub base: String,
    /// The model's name at `/anthropic`, and its id at `/bedrock`.
    pub model: String,
    pub model_id: String,
    pub region: String,
    pub key: String,
}

impl Lines {
    /// Whether what is sent can be read on its way: some tools send no key then.
    pub fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }

    /// Sign in from a terminal.
    pub fn login(&self) -> String {
        format!("bedrock_proxy login {}", shell(&self.base))
    }

    /// Claude Code's settings, for who signed in from a terminal.
    pub fn settings(&self) -> String {
        format!(
            "{{
  \"apiKeyHelper\": \"bedrock_proxy token\",
  \"env\": {{
    \"ANTHROPIC_BASE_URL\": {base},
    \"ANTHROPIC_MODEL\": {model},
    \"CLAUDE_CODE_API_KEY_HELPER_TTL_MS\": \"240000\",
    \"CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY\": \"1\"
  }}
}}",
            base = quoted(&format!("{}/anthropic", self.base)),
            model = quoted(&self.model),
        )
    }

    /// Claude Code with a key, at `/anthropic`.
    pub fn claude_key(&self) -> String {
        format!(
            "export ANTHROPIC_BASE_URL={base}
export ANTHROPIC_AUTH_TOKEN={key}
export CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY=1
export ANTHROPIC_MODEL={model}",
            base = shell(&format!("{}/anthropic", self.base)),
            key = self.key,
            model = shell(&self.model),
        )
    }

    /// Claude Code with a key, at `/bedrock`.
    pub fn claude_bedrock(&self) -> String {
        format!(
            "export CLAUDE_CODE_USE_BEDROCK=1
export CLAUDE_CODE_SKIP_BEDROCK_AUTH=1
export ANTHROPIC_BEDROCK_BASE_URL={base}
export CLAUDE_CODE_ATTRIBUTION_HEADER=0
export AWS_REGION={region}
export AWS_BEARER_TOKEN_BEDROCK={key}
export ANTHROPIC_MODEL={model}",
            base = shell(&format!("{}/bedrock", self.base)),
            region = shell(&self.region),
            key = self.key,
            model = shell(&self.model_id),
        )
    }

    pub fn python(&self) -> String {
        format!(
            "import anthropic

client = anthropic.Anthropic(base_url={base}, api_key={key})
reply = client.messages.create(model={model}, max_tokens=1024, messages=[{HELLO}])
print(reply.content[0].text)",
            base = quoted(&format!("{}/anthropic", self.base)),
            key = quoted(&self.key),
            model = quoted(&self.model),
        )
    }

    pub fn typescript(&self) -> String {
        format!(
            "import Anthropic from \"@anthropic-ai/sdk\";

const client = new Anthropic({{ baseURL: {base}, apiKey: {key} }});
const reply = await client.messages.create({{ model: {model}, max_tokens: 1024, messages: [{HELLO_TS}] }});
console.log(reply.content);",
            base = quoted(&format!("{}/anthropic", self.base)),
            key = quoted(&self.key),
            model = quoted(&self.model),
        )
    }

    pub fn bedrock_python(&self) -> String {
        format!(
            "import anthropic

client = anthropic.AnthropicBedrock(base_url={base}, api_key={key}, aws_region={region})
reply = client.messages.create(model={model}, max_tokens=1024, messages=[{HELLO}])
print(reply.content[0].text)",
            base = quoted(&format!("{}/bedrock", self.base)),
            key = quoted(&self.key),
            region = quoted(&self.region),
            model = quoted(&self.model_id),
        )
    }

    pub fn bedrock_typescript(&self) -> String {
        format!(
            "import {{ AnthropicBedrock }} from \"@anthropic-ai/bedrock-sdk\";

const bedrock = new AnthropicBedrock({{ baseURL: {base}, apiKey: {key} }});
const reply = await bedrock.messages.create({{ model: {model}, max_tokens: 1024, messages: [{HELLO_TS}] }});
console.log(reply.content);",
            base = quoted(&format!("{}/bedrock", self.base)),
            key = quoted(&self.key),
            model = quoted(&self.model_id),
        )
    }

    /// With the key in the environment: boto3 takes none otherwise.
    pub fn boto3(&self) -> String {
        format!(
            "import os

import boto3

os.environ[\"AWS_BEARER_TOKEN_BEDROCK\"] = {key}
client = boto3.client(\"bedrock-runtime\", region_name={region}, endpoint_url={base})
reply = client.converse(modelId={model}, messages=[{{\"role\": \"user\", \"content\": [{{\"text\": \"Hello\"}}]}}])
print(reply[\"output\"][\"message\"][\"content\"][0][\"text\"])",
            base = quoted(&format!("{}/bedrock", self.base)),
            key = quoted(&self.key),
            region = quoted(&self.region),
            model = quoted(&self.model_id),
        )
    }

    pub fn aws_cli(&self) -> String {
        format!(
            "export AWS_BEARER_TOKEN_BEDROCK={key}
aws bedrock-runtime converse --endpoint-url {base} --region {region} --model-id {model} \\
  --messages '[{{\"role\":\"user\",\"content\":[{{\"text\":\"Hello\"}}]}}]'",
            base = shell(&format!("{}/bedrock", self.base)),
            key = self.key,
            region = shell(&self.region),
            model = shell(&self.model_id),
        )
    }

    pub fn curl_messages(&self) -> String {
        let body = format!(
            "{{\"model\":{},\"max_tokens\":1024,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}",
            quoted(&self.model)
        );
        format!(
            "curl {url} -H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json' \\
  -d {body}",
            url = shell(&format!("{}/anthropic/v1/messages", self.base)),
            key = self.key,
            body = in_quotes(&body),
        )
    }

    pub fn curl_converse(&self) -> String {
        let model = utf8_percent_encode(&self.model_id, SEGMENT);
        format!(
            "curl {url} -H \"Authorization: Bearer {key}\" \\
  -d '{{\"messages\":[{{\"role\":\"user\",\"content\":[{{\"text\":\"Hello\"}}]}}]}}'",
            url = shell(&format!("{}/bedrock/model/{model}/converse", self.base)),
            key = self.key,
        )
    }
}

const HELLO: &str = "{\"role\": \"user\", \"content\": \"Hello\"}";
const HELLO_TS: &str = "{ role: \"user\", content: \"Hello\" }";

/// A text in JSON, Python and TypeScript alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A word of a command.
fn shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@%-+,[]".contains(&byte);
    let plain = !word.is_empty() && word.bytes().all(plain) && !word.contains(['[', ']']);
    if plain { word.to_owned() } else { in_quotes(word) }
}

fn in_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(model: &str, model_id: &str) -> Lines {
        Lines {
            base: "https://proxy.example.com".to_owned(),
            model: model.to_owned(),
            model_id: model_id.to_owned(),
            region: "us-east-1".to_owned(),
            key: SOME_KEY.to_owned(),
        }
    }

    #[test]
    fn the_readme_has_the_same_lines() {
        let readme = include_str!("../../../../README.md");
        let lines = lines("claude-opus-4-8", "us.anthropic.claude-opus-4-8");
        let texts = [
            lines.login(),
            lines.settings(),
            lines.claude_key(),
            lines.claude_bedrock(),
            lines.python(),
            lines.typescript(),
            lines.bedrock_python(),
            lines.bedrock_typescript(),
            lines.boto3(),
            lines.aws_cli(),
            lines.curl_messages(),
            lines.curl_converse(),
        ];
        for text in texts {
            for line in text.lines() {
                // What the answer is called, and that it is shown, is left to readers of it.
                let line = line.trim().replace("const reply = ", "").replace("reply = ", "");
                let around = line.starts_with("import") || line.contains("print(");
                let around = around || line.contains("console.log") || line.contains("os.environ");
                assert!(around || readme.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn a_name_cannot_end_what_it_stands_in() {
        let lines = lines("a'b\"; rm -rf $HOME", "arn:aws:bedrock:us-east-1:1:x/y'z");

        assert!(lines.claude_key().contains(r#"ANTHROPIC_MODEL='a'\''b"; rm -rf $HOME'"#));
        assert!(lines.python().contains(r#"model="a'b\"; rm -rf $HOME""#));
        assert!(lines.curl_messages().contains(r#"{"model":"a'\''b\"; rm -rf $HOME""#));
        assert!(lines.curl_converse().contains("/model/arn:aws:bedrock:us-east-1:1:x%2Fy%27z/"));
    }
}
