# SPDX-License-Identifier: MIT
PACKAGECONFIG:class-native = ""
DEPENDS:remove:class-native = "glib-2.0-native"
