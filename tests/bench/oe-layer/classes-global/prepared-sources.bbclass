# SPDX-License-Identifier: MIT
# Tarballs of releases carry a configure script: it is used as it is, for the host has an automake too old for OE-core.
# What was generated is made younger than what it was generated from, so that make generates nothing again.
python () {
    if bb.data.inherits_class("autotools", d) and bb.data.inherits_class("native", d):
        d.setVar("autotools_do_configure", '''
\texport AUTOMAKE=: AUTOCONF=: ACLOCAL=: AUTOHEADER=: MAKEINFO=true
\tfind ${S} -name configure -o -name aclocal.m4 | xargs -r touch
\tfind ${S} -name Makefile.in -o -name config.h.in -o -name config.hin | xargs -r touch
\tsleep 1
\tfind ${S} -name configure | xargs -r touch
\toe_runconf
''')
}
