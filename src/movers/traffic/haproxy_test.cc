#include "movers/traffic/haproxy.h"

#include <gtest/gtest.h>

namespace midstream::haproxy {
namespace {

TEST(ServersState, FindsColumnsByTheirNames) {
  const auto servers = parse_servers_state(
      "1\n"
      "# srv_admin_state srv_name srv_iweight srv_uweight later srv_op_state\n"
      "8 web-old-1 100 19 x 2\n"
      "1 web-new-1 0 1 y 0\n\n");
  ASSERT_TRUE(servers) << servers.error().text();
  ASSERT_EQ(servers->size(), 2u);
  EXPECT_EQ((*servers)[0].weight, 19);
  EXPECT_EQ((*servers)[0].initial_weight, 100);
  EXPECT_EQ((*servers)[0].state(), "DRAIN");
  EXPECT_EQ((*servers)[1].state(), "MAINT");
  EXPECT_FALSE((*servers)[1].takes_traffic());
}

TEST(ServersState, OnlyAnAddressWithAPortCanBeAsked) {
  const auto servers = parse_servers_state(
      "1\n"
      "# srv_name srv_addr srv_port srv_use_ssl srv_uweight srv_iweight srv_op_state srv_admin_state\n"
      "a 10.0.0.7 8080 0 1 1 2 0\n"
      "b 2001:db8::7 8443 1 1 1 2 0\n"
      "c - 0 0 1 1 2 0\n"
      "d /run/d.sock 0 0 1 1 2 0\n");
  ASSERT_TRUE(servers) << servers.error().text();
  EXPECT_EQ((*servers)[0].address, "10.0.0.7");
  EXPECT_EQ((*servers)[0].port, 8080);
  EXPECT_EQ((*servers)[1].address, "2001:db8::7");
  EXPECT_TRUE((*servers)[1].tls);
  EXPECT_EQ((*servers)[2].address, "");
  EXPECT_EQ((*servers)[3].address, "");
}

TEST(ServersState, AMessageInsteadOfATableIsAnError) {
  EXPECT_EQ(parse_servers_state("Permission denied\n").error().kind, ErrorKind::refused);
  EXPECT_EQ(parse_servers_state("").error().kind, ErrorKind::corrupt);
  EXPECT_EQ(parse_servers_state("1\n# srv_name srv_uweight\na 1\n").error().kind, ErrorKind::corrupt);
  EXPECT_EQ(parse_servers_state("1\n# srv_name srv_uweight srv_iweight srv_op_state srv_admin_state\na b c d e\n")
                .error()
                .kind,
            ErrorKind::corrupt);
}

TEST(Stat, ReadsQuotedFieldsAndEmptyOnes) {
  const auto rows = parse_stat("# pxname,svname,scur,last_chk\nweb,old-1,,\"a, \"\"b\"\"\"\nweb,BACKEND,7,\n\n");
  ASSERT_TRUE(rows) << rows.error().text();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ(stat_text((*rows)[0], "last_chk"), "a, \"b\"");
  EXPECT_EQ(stat_number((*rows)[0], "scur"), 0);
  EXPECT_EQ(stat_number((*rows)[1], "scur"), 7);
  EXPECT_EQ(stat_number((*rows)[1], "no_such_column"), 0);
  EXPECT_FALSE(parse_stat("# a,b\n1,2,3\n"));
}

TEST(Info, NeedsVersionAndPid) {
  const auto info =
      parse_info("Name: HAProxy\nVersion: 2.6.12-1\nPid: 9010\nUptime: 0d 0h\nStart_time_sec: 1795345588\n");
  ASSERT_TRUE(info) << info.error().text();
  EXPECT_EQ(info->pid, 9010);
  EXPECT_EQ(info->start_s, 1795345588);
  EXPECT_EQ(parse_info("220 mail ready\n").error().kind, ErrorKind::refused);
}

TEST(SetReply, OnlySilenceIsSuccess) {
  EXPECT_TRUE(parse_set_reply("set server a/b weight 1", "\n"));
  EXPECT_FALSE(parse_set_reply("set server a/b weight 1", "No such server.\n\n"));
  const auto denied = parse_set_reply("set server a/b weight 1", "Permission denied\n\n");
  ASSERT_FALSE(denied);
  EXPECT_NE(denied.error().todo.find("level admin"), std::string::npos);
}

TEST(ProxyName, CannotCarryASecondCommand) {
  EXPECT_TRUE(is_proxy_name("web-old_1.a:b"));
  for (const auto* bad : {"", "a b", "a;shutdown", "a\nb", "a/b"}) EXPECT_FALSE(is_proxy_name(bad)) << bad;
}

}  // namespace
}  // namespace midstream::haproxy
