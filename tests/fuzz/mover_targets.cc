// What comes to the movers: the files stream, HAProxy's answers and files, keys, access files, frames on the wire.
#include "movers/addresses/address_set.h"
#include "movers/addresses/frames.h"
#include "movers/addresses/interfaces.h"
#include "movers/title.h"
#include "movers/files/wire.h"
#include "movers/names/key_file.h"
#include "movers/postgres/access.h"
#include "movers/traffic/config_file.h"
#include "movers/traffic/haproxy.h"
#include "tests/fuzz/target.h"

namespace midstream::fuzz {

namespace {

using Seeds = std::vector<std::string>;

void files_frame(std::string_view input) {
  const auto frame = files::decode(input);
  if (!frame) return;
  if (const auto* batch = std::get_if<files::Batch>(&*frame)) {
    files::BatchWriter writer;
    for (const auto& change : batch->changes) writer.add(change);
    const auto again = writer.take(batch->sequence);
    const auto twice = files::decode(again);
    must(twice && std::get<files::Batch>(*twice).changes.size() == batch->changes.size(), "a batch encodes to what was decoded");
  }
}

Seeds files_frame_seeds() {
  files::BatchWriter writer;
  files::Version version;
  writer.add({.op = files::Op::put, .path = "a/b", .version = version, .base = 7, .content = "bytes"});
  writer.add({.op = files::Op::gone, .path = "c"});
  version.type = files::EntryType::directory;
  writer.add({.op = files::Op::rename, .path = "d/new", .version = version, .base = 9, .from = "d/old"});
  return {writer.take(3),
          files::encode(files::Part{.file = 1, .offset = 4096, .bytes = "part"}),
          files::encode(files::Cancel{.file = 1}),
          files::encode(files::Ping{.checkpoint = true}),
          files::encode(files::Welcome{.incarnation = 5}),
          files::encode(files::Refusal{{ErrorKind::refused, "what", "todo"}}),
          files::encode(files::Ack{.applied = 2, .durable = 1, .failures = {{.path = "a", .need_content = true, .text = "why"}}}),
          files::encode(files::Status{.text = "why"})};
}

void files_listing(std::string_view input) {
  std::vector<files::Listed> entries;
  const auto last = files::decode_listing(input, entries);
  if (!last) return;
  std::vector<files::Listed> again;
  must(files::decode_listing(files::encode_listing(entries, *last), again) && again.size() == entries.size(),
       "a listing encodes to what was decoded");
}

Seeds files_listing_seeds() { return {files::encode_listing({{"a", {}}, {"b/c", {}}}, true), files::encode_listing({}, false)}; }

void haproxy_answer(std::string_view input) {
  (void)haproxy::parse_servers_state(input);
  (void)haproxy::parse_info(input);
  (void)haproxy::parse_set_reply("set weight a/b 1", input);
  const auto rows = haproxy::parse_stat(input);
  if (!rows) return;
  for (const auto& row : *rows) (void)haproxy::stat_number(row, "scur");
}

Seeds haproxy_answer_seeds() {
  return {"# pxname,svname,qcur,qmax,scur,smax,status,weight,\nshop,web-old,0,0,3,9,UP,100,\nshop,BACKEND,0,0,3,9,UP,200,\n",
          "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change\n"
          "3 shop 1 web-old 192.0.2.10 2 0 100 100 7\n",
          "Name: HAProxy\nVersion: 2.6.12-1\nPid: 77\nStart_time_sec: 1700000000\n", "No such server.\n"};
}

void haproxy_file(std::string_view input) {
  const std::vector<std::string> servers{"a", "b"};
  (void)haproxy::balance_settings(input, "shop");
  const auto written = haproxy::written_weights(input, "shop", servers);
  if (!written) return;
  const auto same = haproxy::rewrite_weights(input, "shop", *written);
  must(same && *same == input, "the weights that stand there change no byte");
  auto other = *written;
  for (auto& [name, weight] : other) weight = "17";
  const auto changed = haproxy::rewrite_weights(input, "shop", other);
  if (!changed) return;
  const auto back = haproxy::rewrite_weights(*changed, "shop", *written);
  must(back.has_value(), "weights can be put back");
  const auto read = haproxy::written_weights(*back, "shop", servers);
  must(read && *read == *written, "weights that are put back are read as before");
  if (input.find_first_of("\"'\\") == std::string_view::npos) must(*back == input, "and without quotes, byte for byte");
}

Seeds haproxy_file_seeds() {
  return {"defaults\n  balance roundrobin\nbackend shop\n  server a 192.0.2.1:80 weight 10 check\n  server b 192.0.2.2:80 check # b\n",
          "backend shop\n  default-server weight 5 \"x y\"\n  server 'a' 1.2.3.4:1\n  server b 1.2.3.4:2 weight\\ 3 weight 4\n",
          "backend other\n server a x\nbackend shop\r\n\tserver a x weight 1\r\n\tserver b y\r\n"};
}

void tsig_key(std::string_view input) { (void)dns::parse_key_file(input); }

Seeds tsig_key_seeds() {
  return {"key \"mover.\" {\n  algorithm hmac-sha256; // c\n  secret \"c2VjcmV0c2VjcmV0c2VjcmV0\"; # c\n};\n",
          "/* c */ key mover { secret \"c2VjcmV0\"; algorithm \"hmac-sha512\"; };"};
}

void access_file(std::string_view input) {
  (void)postgres::find_block(input, "autumn");
  const auto bare = postgres::with_block(input, "autumn", "");
  must(postgres::with_block(postgres::with_block(bare, "autumn", "local all all peer\n"), "autumn", "") == bare,
       "a block that is taken out leaves the file as it was");
}

Seeds access_file_seeds() {
  const std::string plain = "# pg_hba.conf\nlocal all all peer\nhost all all 0.0.0.0/0 scram-sha-256\n";
  return {plain, postgres::with_block(plain, "autumn", "host all all 192.0.2.1/32 reject\n"), postgres::with_block("no newline", "autumn", "x\n")};
}

void wire_frame(std::string_view input) { (void)parse_claim(input); }

Seeds wire_frame_seeds() {
  const Mac own{2, 0, 0, 0, 0, 1};
  Seeds seeds;
  for (const char* text : {"192.0.2.10", "2001:db8::10"}) {
    const auto address = *parse_ip(text);
    seeds.push_back(probe_frame(own, address));
    for (auto& frame : announcement_frames(own, address, true)) seeds.push_back(std::move(frame));
    seeds.push_back(directed_frame(own, address, false, own, address));
  }
  return seeds;
}

void boot_file(std::string_view input) {
  const std::set<IpAddress> moving{*parse_ip("192.0.2.10"), *parse_ip("2001:db8::10")};
  for (const auto& edit : {edit_interfaces(input, "eth0", moving), edit_networkd(input, moving)}) {
    must(edit.found.size() <= moving.size(), "nothing is found that was not sought");
    if (edit.found.empty() && edit.unclear.empty()) must(edit.text == input, "where nothing is found no byte changes");
  }
  (void)sources_interfaces_d(input);
  (void)is_blank_config(input);
}

Seeds boot_file_seeds() {
  return {"auto lo eth0\niface lo inet loopback\nsource /etc/network/interfaces.d/*\niface eth0 inet static\n  address 192.0.2.10/26\n"
          "  gateway 192.0.2.1\n  up ip addr add 192.0.2.11/26 dev $IFACE\n\niface eth0 inet6 static\n  address 2001:db8::10/64\n",
          "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.10/26\nAddress=192.0.2.9/26\n[Address]\nAddress=2001:db8::10/64\n"};
}

void address_state(std::string_view input) {
  const auto json = parse_json(input);
  if (!json) return;
  (void)title_from_json(*json);
  (void)parse_address_set(*json);
}

Seeds address_state_seeds() {
  return {R"({"state":"owner","turn":3,"epoch":7})",
          R"({"addresses":["192.0.2.10","2001:db8::10"],"prefix4":26,"prefix6":64,"from":{"host":"old","dev":"eth0"},"to":{"host":"new","dev":"eth0"},)"
          R"("verifier":"edge","gateway4":"192.0.2.1","fixed":["198.51.100.1"],"ignore_ports":[22]})"};
}

}  // namespace

std::vector<Target> mover_targets() {
  return {{"files_frame", files_frame, files_frame_seeds},       {"files_listing", files_listing, files_listing_seeds},
          {"haproxy_answer", haproxy_answer, haproxy_answer_seeds}, {"haproxy_file", haproxy_file, haproxy_file_seeds},
          {"tsig_key", tsig_key, tsig_key_seeds},                {"access_file", access_file, access_file_seeds},
          {"wire_frame", wire_frame, wire_frame_seeds},          {"boot_file", boot_file, boot_file_seeds},
          {"address_state", address_state, address_state_seeds}};
}

}  // namespace midstream::fuzz
