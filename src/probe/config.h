// What the probe is to do: docs/formats/probe.md.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

struct ServiceProbe {
  std::string name;
  std::string kind;           // http, tcp, postgres or mail
  std::string target;         // URL, host:port, libpq key=value pairs without a password, or doors of mail
  bool write = false;         // postgres: write a row
  std::string table = "probe";  // postgres: (n bigint primary key, at timestamptz); must be there
  std::string password_file;  // postgres: a libpq password file; mail: one line, USER PASSWORD
  std::chrono::milliseconds every{100};
  std::chrono::milliseconds timeout{1'000};
  std::chrono::milliseconds slow{250};  // later than this is slow
};

struct AddressProbe {
  std::string address;  // numeric
  std::chrono::milliseconds every{20};
  std::chrono::milliseconds timeout{200};
};

struct ProbeConfig {
  std::filesystem::path log;
  std::vector<ServiceProbe> services;
  std::vector<AddressProbe> addresses;
};

// Refused, with the field's name, for anything that cannot be probed; unknown fields too.
Result<ProbeConfig> parse_probe_config(const Json& json);
Json to_json(const ProbeConfig& config);

struct HttpTarget {
  bool tls = false;
  std::string host;       // as getaddrinfo takes it
  std::string authority;  // as the Host field has it
  std::uint16_t port = 80;
  std::string path = "/";
};
Result<HttpTarget> parse_http_target(const std::string& url);

struct TcpTarget {
  std::string host;
  std::uint16_t port = 0;
};
// "host:port" or "[v6]:port".
Result<TcpTarget> parse_tcp_target(const std::string& text);

struct MailDoor {
  std::string protocol;  // smtp, submission or imap
  TcpTarget at;
};
// "smtp=mx.example:25 imap=imap.example:993": each protocol at most once, one at least.
Result<std::vector<MailDoor>> parse_mail_target(const std::string& text);

}  // namespace midstream
